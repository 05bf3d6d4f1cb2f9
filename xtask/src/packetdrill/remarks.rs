//! What this project says to scripts that fail: why, and whether that is as it shall be.

/// By the beginning of a script's path.
const REMARKS: [(&str, &str); 1] = [("tcp/none", "")];

/// What is said to a script.
pub(crate) fn of(name: &str) -> &'static str {
    REMARKS.iter().find(|(begin, _)| name.starts_with(begin)).map_or("", |(_, remark)| remark)
}
