//! Who holds an interface: for the text of an error, from what the kernel tells about its program, and `/proc` about
//! open descriptors.

use std::fs;
use std::path::Path;

use rustix::io;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// Most holders that are named.
const NAMED: usize = 3;

/// `RTM_GETLINK`, and what makes it a question.
const GET_LINK: u16 = 18;
const REQUEST: u16 = 1;
/// `IFLA_XDP`, and in it `IFLA_XDP_PROG_ID`, or the ones for the driver's and the stack's program.
const XDP: u16 = 43;
const PROGRAM_IDS: [u16; 3] = [4, 5, 6];
/// Where the program runs, and the answer for the stack.
const ATTACHED: u16 = 2;
const IN_STACK: u8 = 2;

/// The processes that hold the XDP program of an interface, in words.
pub(super) fn of_program(ifindex: u32) -> String {
    let Ok(Some((id, _))) = attached(ifindex) else {
        return "which goes just now: try again".into();
    };
    let wanted = format!("prog_id:\t{id}");
    let holders = processes(|info| {
        info.lines().any(|line| line == "link_type:\txdp") && info.lines().any(|line| line == wanted)
    });
    if holders.is_empty() {
        return format!(
            "number {id}, attached for good (`ip link set … xdp off` detaches it) or by a process that cannot be seen \
             from here (`bpftool link` shows more)"
        );
    }
    format!("number {id}, held by {}: end that first", holders.join(" and "))
}

/// The number of the program on an interface, and whether it runs in the stack. `None`: there is none.
pub(super) fn attached(ifindex: u32) -> io::Result<Option<(u32, bool)>> {
    // Routing is the netlink protocol number 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // `struct nlmsghdr` and `struct ifinfomsg`, 16 bytes each.
    let mut question = [0; 32];
    question[..4].copy_from_slice(&32_u32.to_ne_bytes());
    question[4..6].copy_from_slice(&GET_LINK.to_ne_bytes());
    question[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    question[20..24].copy_from_slice(&ifindex.to_ne_bytes());
    send(&socket, &question, SendFlags::empty())?;
    let mut answer = vec![0; 32 << 10];
    let (_, len) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let attributes = answer[..len.min(answer.len())].get(32..).unwrap_or_default();
    let Some(xdp) = attribute(attributes, XDP) else { return Ok(None) };
    let in_stack = attribute(xdp, ATTACHED).is_some_and(|place| place == [IN_STACK]);
    let id = PROGRAM_IDS.iter().find_map(|kind| attribute(xdp, *kind)?.first_chunk());
    Ok(id.map(|bytes| (u32::from_ne_bytes(*bytes), in_stack)))
}

/// The value of the first attribute of a kind.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (head, _) = rest.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        // The high bits say how the value is laid out.
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = rest.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}

/// The processes with a descriptor about which `matches` is true.
fn processes(matches: impl Fn(&str) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let info = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fdinfo")) else { continue };
        if descriptors.flatten().any(|descriptor| matches(&info(&descriptor.path()))) {
            found.push(format!("process {number} ({})", info(&entry.path().join("comm")).trim()));
        }
        if found.len() == NAMED {
            break;
        }
    }
    found
}
