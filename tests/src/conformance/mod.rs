//! What every libOS must do.
