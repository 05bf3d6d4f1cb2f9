//! Congestion control: CUBIC with HyStart++, NewReno, and PRR in recovery.
