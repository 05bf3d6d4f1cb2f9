//! System calls that no safe wrapper offers: `bpf(2)`, and questions about interfaces.
//!
//! Invariant: whatever the kernel reads or writes through an address in an argument is alive and large enough for as
//! long as the call lasts; the kernel keeps none of these addresses.

use std::ffi::{c_long, c_ulong};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use demi_api::fd::Fd;
use rustix::io::Errno;

use super::program::Insn;

const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_PROG_LOAD: c_long = 5;
const BPF_PROG_GET_FD_BY_ID: c_long = 13;
const BPF_MAP_GET_FD_BY_ID: c_long = 14;
const BPF_OBJ_GET_INFO_BY_FD: c_long = 15;
const BPF_LINK_CREATE: c_long = 28;
const BPF_LINK_UPDATE: c_long = 29;
const BPF_LINK_GET_FD_BY_ID: c_long = 30;
const BPF_LINK_GET_NEXT_ID: c_long = 31;

const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// The attach type of XDP programs, at loading and at linking.
const BPF_XDP: u32 = 37;
/// The program copes with frames whose data do not lie in one piece.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

/// What kind of link attaches an XDP program.
const BPF_LINK_TYPE_XDP: u32 = 6;

/// Bytes of the verifier's log that are kept.
const LOG: usize = 16 << 10;

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    _old: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
struct InfoByFd {
    object: u32,
    len: u32,
    info: u64,
}

/// What the kernel tells about a program: the beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct ProgramInfo {
    kind: u32,
    pub(super) id: u32,
    /// A digest of the instructions, whatever map they use.
    pub(super) tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    pub(super) uid: u32,
    /// How many maps it uses.
    pub(super) map_count: u32,
    map_ids: u64,
    pub(super) name: [u8; 16],
}

/// What the kernel tells about a map: the beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// What the kernel tells about a link: the beginning of `struct bpf_link_info`.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    _pad: u32,
    ifindex: u32,
    _pad2: u32,
}

/// A map from receive queues to AF_XDP sockets, with `entries` places.
pub(super) fn create_socket_map(entries: u32) -> Result<Fd, Errno> {
    let attr = MapCreate {
        map_type: BPF_MAP_TYPE_XSKMAP,
        key_size: 4,
        value_size: 4,
        max_entries: entries,
        flags: 0,
    };
    // SAFETY: the attribute holds no addresses.
    new_descriptor(unsafe { bpf(BPF_MAP_CREATE, &attr) })
}

/// Puts a socket in a map.
pub(super) fn set_socket(map: BorrowedFd<'_>, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let value = number(socket);
    let attr = MapUpdate {
        map: number(map),
        _pad: 0,
        key: address(&raw const queue),
        value: address(&raw const value),
        flags: 0,
    };
    // SAFETY: the kernel reads four bytes each at the addresses of `queue` and `value`, which are live.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attr) }.map(drop)
}

/// Loads an XDP program. An error comes with what the verifier said, if it said something.
pub(super) fn load_program(insns: &[Insn], frags: bool, name: &str) -> Result<Fd, (Errno, String)> {
    const LICENSE: &[u8] = b"Dual MIT/GPL\0";
    let mut log = [0_u8; LOG];
    let name = program_name(name);
    let mut attr = ProgramLoad {
        program_type: BPF_PROG_TYPE_XDP,
        insn_count: insns.len() as u32,
        insns: address(insns.as_ptr()),
        license: address(LICENSE.as_ptr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: if frags { BPF_F_XDP_HAS_FRAGS } else { 0 },
        name,
        ifindex: 0,
        attach_type: BPF_XDP,
    };
    // SAFETY: the kernel reads `insn_count` instructions of 8 bytes and the license up to its zero, both of which live.
    match new_descriptor(unsafe { bpf(BPF_PROG_LOAD, &attr) }) {
        Ok(fd) => return Ok(fd),
        Err(errno) if errno == Errno::PERM => return Err((errno, String::new())),
        Err(_) => {}
    }
    (attr.log_level, attr.log_size, attr.log) = (1, LOG as u32, address(log.as_mut_ptr()));
    // SAFETY: as above, and the kernel writes at most `log_size` bytes to `log`, which is as long.
    new_descriptor(unsafe { bpf(BPF_PROG_LOAD, &attr) }).map_err(|errno| {
        let said = log.split(|byte| *byte == 0).next().unwrap_or_default();
        (errno, String::from_utf8_lossy(said).into_owned())
    })
}

/// Attaches a program to an interface until the link is closed, by the process or at its death.
pub(super) fn create_link(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> Result<Fd, Errno> {
    let attr = LinkCreate { program: number(program), ifindex, attach_type: BPF_XDP, flags };
    // SAFETY: the attribute holds no addresses.
    new_descriptor(unsafe { bpf(BPF_LINK_CREATE, &attr) })
}

/// Replaces the program of a link; each frame meets the one or the other.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let attr = LinkUpdate { link: number(link), program: number(program), flags: 0, _old: 0 };
    // SAFETY: the attribute holds no addresses.
    unsafe { bpf(BPF_LINK_UPDATE, &attr) }.map(drop)
}

/// A program's name as the kernel keeps it.
pub(super) fn program_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    // The last byte stays zero.
    bytes.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
    bytes
}

/// The program with this number.
pub(super) fn program_by_id(id: u32) -> Result<Fd, Errno> {
    by_id(BPF_PROG_GET_FD_BY_ID, id)
}

/// What the kernel knows of a program, and the number of its first map.
pub(super) fn program_info(program: BorrowedFd<'_>) -> Result<(ProgramInfo, u32), Errno> {
    let mut map = 0_u32;
    let mut info = ProgramInfo { map_count: 1, map_ids: address(&raw mut map), ..ProgramInfo::default() };
    let mut attr = InfoByFd {
        object: number(program),
        len: size_of::<ProgramInfo>() as u32,
        info: address(&raw mut info),
    };
    // SAFETY: the kernel reads and writes at most `len` bytes of `info`, and writes at most `map_count` numbers, one, to
    // `map`; lengths of instructions are zero, so none are written. Both outlive the call.
    unsafe { bpf_mut(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok((info, map))
}

/// The map of sockets with this number, and how many places it has.
pub(super) fn socket_map_by_id(id: u32) -> Result<(Fd, u32), Errno> {
    let map = by_id(BPF_MAP_GET_FD_BY_ID, id)?;
    let mut info = MapInfo::default();
    let mut attr = InfoByFd {
        object: number(map.as_fd()),
        len: size_of::<MapInfo>() as u32,
        info: address(&raw mut info),
    };
    // SAFETY: the kernel writes at most `len` bytes to `info`, which outlives the call.
    unsafe { bpf_mut(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    if info.kind == BPF_MAP_TYPE_XSKMAP { Ok((map, info.max_entries)) } else { Err(Errno::NOENT) }
}

/// The link that attaches a program to an interface.
pub(super) fn find_link(program: u32, ifindex: u32) -> Result<Fd, Errno> {
    let mut at = ById { id: 0, next: 0, flags: 0 };
    loop {
        // SAFETY: the attribute holds no addresses; the kernel writes `next` in it, which is declared as large as it is.
        unsafe { bpf_mut(BPF_LINK_GET_NEXT_ID, &mut at) }?;
        at.id = at.next;
        // One that has just gone is not the one.
        let Ok(link) = by_id(BPF_LINK_GET_FD_BY_ID, at.id) else { continue };
        let mut info = LinkInfo::default();
        let mut attr = InfoByFd {
            object: number(link.as_fd()),
            len: size_of::<LinkInfo>() as u32,
            info: address(&raw mut info),
        };
        // SAFETY: the kernel reads and writes at most `len` bytes of `info`, which outlives the call. For some kinds of
        // links it takes an address from there, at which it writes nothing, as the length beside it is zero.
        let told = unsafe { bpf_mut(BPF_OBJ_GET_INFO_BY_FD, &mut attr) };
        if told.is_ok() && (info.kind, info.program, info.ifindex) == (BPF_LINK_TYPE_XDP, program, ifindex) {
            return Ok(link);
        }
    }
}

fn by_id(command: c_long, id: u32) -> Result<Fd, Errno> {
    let attr = ById { id, next: 0, flags: 0 };
    // SAFETY: the attribute holds no addresses.
    new_descriptor(unsafe { bpf(command, &attr) })
}

/// For a command that writes its answer to the attribute.
///
/// # Safety
/// As for [`bpf`].
unsafe fn bpf_mut<T>(command: c_long, attr: &mut T) -> Result<c_long, Errno> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes at most. The rest is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, address(&raw mut *attr), size_of::<T>()) })
}

/// # Safety
/// Addresses in `attr` are those of live memory, as large as the command wants it.
unsafe fn bpf<T>(command: c_long, attr: &T) -> Result<c_long, Errno> {
    // SAFETY: the kernel reads the attribute, `size_of::<T>()` bytes, and takes what is missing for zero. These commands
    // write answers only behind the fields declared here, and only where there is room. The rest is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, address(attr), size_of::<T>()) })
}

/// What `ioctl`s on interfaces exchange: `struct ifreq`.
#[repr(C)]
pub(super) struct InterfaceRequest {
    name: [u8; 16],
    /// What is asked or answered, by request.
    pub(super) data: [u8; 24],
}

impl InterfaceRequest {
    /// About the interface of this name. `None`: no interface can have it.
    pub(super) fn new(interface: &str) -> Option<InterfaceRequest> {
        let mut name = [0; 16];
        let fits = !interface.is_empty() && interface.len() < name.len() && !interface.contains('\0');
        if !fits {
            return None;
        }
        name[..interface.len()].copy_from_slice(interface.as_bytes());
        Some(InterfaceRequest { name, data: [0; 24] })
    }

    /// Asks with one of the requests whose answer lies in `data`: `SIOCGIFINDEX`, `SIOCGIFMTU`, `SIOCGIFHWADDR`,
    /// `SIOCGIFFLAGS`; anything else is refused.
    pub(super) fn ask(&mut self, socket: BorrowedFd<'_>, request: c_ulong) -> Result<(), Errno> {
        let plain = [libc::SIOCGIFINDEX, libc::SIOCGIFMTU, libc::SIOCGIFHWADDR, libc::SIOCGIFFLAGS];
        if !plain.contains(&request) {
            return Err(Errno::INVAL);
        }
        // SAFETY: these requests read and write a `struct ifreq`, 40 bytes, at the address of `self`, and nothing else.
        check(unsafe { libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), request, &raw mut *self) })
            .map(drop)
    }

    /// Asks the driver. `words` begins with the command; the answer replaces what follows.
    pub(super) fn ask_driver(
        &mut self,
        socket: BorrowedFd<'_>,
        words: &mut EthtoolWords,
    ) -> Result<(), Errno> {
        if ![ETHTOOL_GDRVINFO, ETHTOOL_GCHANNELS, ETHTOOL_GRXFH].contains(&words[0]) {
            return Err(Errno::INVAL);
        }
        // SAFETY: through the address the request reads and writes at most 196 bytes for the first command, 36 for the
        // second and 192 for the third, less than there are words.
        unsafe { self.ask_ethtool(socket, words.as_mut_ptr()) }
    }

    /// Asks the driver how it spreads flows over queues: a `struct ethtool_rxfh` with its table and its key.
    pub(super) fn ask_spread(&mut self, socket: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
        const HEAD: usize = 6;
        let mut head = [0; HEAD];
        head[0] = ETHTOOL_GRSSH;
        // SAFETY: told that there is room for no table and no key, the request writes back the 24 bytes of the head only.
        unsafe { self.ask_ethtool(socket, head.as_mut_ptr()) }?;
        let [_, _, table, key, _, _] = head;
        if table > 1 << 16 || key > 1 << 12 {
            return Err(Errno::RANGE);
        }
        let mut words = vec![0; HEAD + table as usize + (key as usize).div_ceil(4)];
        words[..4].copy_from_slice(&[ETHTOOL_GRSSH, 0, table, key]);
        // SAFETY: the request refuses other numbers of entries and bytes than the driver has, and so writes as much as it is
        // told that there is room for: the head, `table` words, `key` bytes.
        unsafe { self.ask_ethtool(socket, words.as_mut_ptr()) }?;
        Ok(words)
    }

    /// # Safety
    /// There is as much memory at `words` as the command in the first of them reads and writes.
    unsafe fn ask_ethtool(&mut self, socket: BorrowedFd<'_>, words: *mut u32) -> Result<(), Errno> {
        self.data = [0; 24];
        self.data[..8].copy_from_slice(&address(words).to_ne_bytes());
        // SAFETY: the request reads a `struct ifreq` at the address of `self`. The rest is the caller's promise.
        check(unsafe {
            libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut *self)
        })
        .map(drop)
    }
}

/// Name and version of the driver.
pub(super) const ETHTOOL_GDRVINFO: u32 = 3;
/// Numbers of queues.
pub(super) const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// What of a packet is hashed to choose its queue.
pub(super) const ETHTOOL_GRXFH: u32 = 0x29;
/// How the hash is made, and which queue it means.
const ETHTOOL_GRSSH: u32 = 0x46;

/// Room for the largest of the answers.
pub(super) type EthtoolWords = [u32; 64];

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

fn new_descriptor(result: Result<c_long, Errno>) -> Result<Fd, Errno> {
    // SAFETY: the command has just opened this descriptor, and nobody else knows of it.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) }.into())
}

fn check(result: c_long) -> Result<c_long, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
