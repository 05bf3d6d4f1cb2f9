//! Calls as C makes them, on one shim over catnap.

use std::ffi::c_int;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Once;

use demi_api::config::Config;
use demi_libos_catnap::Catnap;
use demi_preload::{Carrier, Shim};

struct Test;

impl Carrier for Test {
    type LibOs = Catnap;

    const IN_KERNEL: bool = true;

    fn has_address(_config: &Config, _ip: IpAddr) -> Option<bool> {
        None
    }
}

static SHIM: Shim<Test> = Shim::new();

extern "C" fn before_fork() {
    SHIM.before_fork();
}

extern "C" fn after_fork() {
    SHIM.after_fork();
}

extern "C" fn in_child() {
    SHIM.in_child();
}

const HANDLERS: [extern "C" fn(); 3] = [before_fork, after_fork, in_child];

/// A descriptor of the shim's.
pub(crate) struct Shimmed(RawFd);

/// A small heap, for all tests.
fn configure() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let file = std::env::temp_dir().join(format!("demi-preload-test-{}.toml", std::process::id()));
        std::fs::write(&file, "[heap]\nsize_mib = 32\nhuge_pages = \"never\"\nlock = false\n").unwrap();
        // SAFETY: tests of this binary read the environment through the shim alone, after this.
        unsafe { std::env::set_var("DEMI_CONFIG", &file) };
        let fd = Shimmed::socket();
        // Reads the configuration, so that the file can go.
        fd.close();
        std::fs::remove_file(file).unwrap();
    });
}

fn outcome(result: isize) -> Result<usize, i32> {
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap())
}

impl Shimmed {
    fn socket() -> Shimmed {
        // SAFETY: numbers, and functions that are there for good.
        Shimmed(unsafe { SHIM.socket(HANDLERS, libc::AF_INET, libc::SOCK_STREAM, 0) })
    }

    pub(crate) fn connect(to: SocketAddr) -> Shimmed {
        configure();
        let ours = Shimmed::socket();
        let SocketAddr::V4(to) = to else { panic!("tests use IPv4") };
        let addr = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: to.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
            sin_zero: [0; 8],
        };
        // SAFETY: the address is as long as is said.
        let result = unsafe { SHIM.connect_c(ours.0, (&raw const addr).cast(), size_of_val(&addr) as u32) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        ours
    }

    pub(crate) fn read(&self, into: &mut [u8]) -> Result<usize, i32> {
        // SAFETY: as many bytes can be written as are said.
        outcome(unsafe { SHIM.read(self.0, into.as_mut_ptr().cast(), into.len()) })
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> Result<usize, i32> {
        // SAFETY: as many bytes can be read as are said.
        outcome(unsafe { SHIM.write(self.0, bytes.as_ptr().cast(), bytes.len()) })
    }

    pub(crate) fn set_nonblock(&self) {
        let flags = libc::O_NONBLOCK as usize;
        // SAFETY: the last argument is a number in a pointer's place.
        assert_eq!(unsafe { SHIM.fcntl(self.0, libc::F_SETFL, std::ptr::without_provenance_mut(flags)) }, 0);
    }

    pub(crate) fn close(&self) {
        // SAFETY: the number is the shim's, and nobody uses it but to be told that it is closed.
        assert_eq!(unsafe { SHIM.close(self.0) }, 0);
    }

    pub(crate) fn number(&self) -> u64 {
        self.0 as u64
    }
}

impl AsRawFd for Shimmed {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// A set of the shim's.
pub(crate) struct Set(RawFd);

pub(crate) fn epoll() -> Set {
    configure();
    // SAFETY: a number, and functions that are there for good.
    Set(unsafe { SHIM.epoll_create1(HANDLERS, libc::EPOLL_CLOEXEC) })
}

impl Set {
    pub(crate) fn add(&self, one: &Shimmed, events: c_int) {
        self.control(libc::EPOLL_CTL_ADD, one, events);
    }

    pub(crate) fn again(&self, one: &Shimmed, events: c_int) {
        self.control(libc::EPOLL_CTL_MOD, one, events);
    }

    fn control(&self, op: c_int, one: &Shimmed, events: c_int) {
        let mut event = libc::epoll_event { events: events as u32, u64: one.number() };
        // SAFETY: the event outlives the call.
        let result = unsafe { SHIM.epoll_ctl(self.0, op, one.0, &raw mut event) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// One event and whose it is, within so many ms.
    pub(crate) fn wait(&self, limit: c_int) -> Option<(u32, u64)> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: there is room for one event.
        match unsafe { SHIM.epoll_pwait(self.0, &raw mut event, 1, limit, std::ptr::null()) } {
            0 => None,
            1 => Some((event.events, event.u64)),
            _ => panic!("{}", std::io::Error::last_os_error()),
        }
    }
}
