//! Who holds an interface: for the text of an error, from what `/proc` tells about open descriptors.

use std::fs;
use std::path::Path;

/// Most holders that are named.
const NAMED: usize = 3;

/// The processes that have an XDP program on an interface, in words.
pub(super) fn of_program(ifindex: u32) -> String {
    let wanted = format!("ifindex:\t{ifindex}");
    let is_link = |info: &str| {
        info.lines().any(|line| line == "link_type:\txdp") && info.lines().any(|line| line == wanted)
    };
    let holders = processes(is_link);
    if holders.is_empty() {
        return "attached without a process that holds it, or by one that cannot be seen from here".into();
    }
    format!("held by {}", holders.join(" and "))
}

/// The processes with a descriptor about which `matches` is true.
fn processes(matches: impl Fn(&str) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for process in entries.flatten().map(|entry| entry.path()) {
        let is_process = |path: &Path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
        };
        if !is_process(&process) || found.len() == NAMED {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(process.join("fdinfo")) else { continue };
        let info = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        if descriptors.flatten().any(|entry| matches(&info(&entry.path()))) {
            let name = info(&process.join("comm"));
            let number = process.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            found.push(format!("process {number} ({})", name.trim()));
        }
    }
    found
}
