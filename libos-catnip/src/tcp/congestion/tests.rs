//! By RFC section.
