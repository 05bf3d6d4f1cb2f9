//! The libOS as the API sees it: descriptors above, logs below.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use demi_api::desc::{QDesc, QueueTable};
use demi_api::error::Error;
use demi_api::libos::{Cx, LibOs, OpenOptions, QueueKind, SeekTo, Setup, names_region};
use demi_api::op::{Op, Position, Step};
use demi_api::time::Instant;
use demi_api::token::QToken;

use crate::config::CattreeSection;
use crate::device::BlockDevice;
use crate::store::{Handle, OpenError, Policy, Store, open};

/// The storage libOS. See the [crate's documentation](crate).
pub struct Cattree {
    queues: QueueTable<Handle>,
    store: Store,
    max_queues: usize,
}

impl Cattree {
    /// Logs on a device that the caller has made: for tests and simulations, and for devices that are not in the
    /// configuration.
    pub fn over(
        setup: &Setup<'_>,
        section: &CattreeSection,
        device: Box<dyn BlockDevice>,
        rng: &mut fastrand::Rng,
    ) -> Result<Cattree, Error> {
        let policy = Policy { refer_from: section.zero_copy_threshold, copy_up_to: section.copy_threshold };
        let device = match section.make && !device.caps().read_only {
            true => make_if_blank(device, setup, section, rng)?,
            false => device,
        };
        let store = Store::open(device, setup.heap, policy)?;
        let max_queues = setup.config.queues.max;
        Ok(Cattree { queues: QueueTable::new(setup.tag, max_queues), store, max_queues })
    }
}

fn make_if_blank(
    device: Box<dyn BlockDevice>,
    setup: &Setup<'_>,
    section: &CattreeSection,
    rng: &mut fastrand::Rng,
) -> Result<Box<dyn BlockDevice>, OpenError> {
    let (device, found) = open::look_at(device, setup.heap);
    match found {
        Err(OpenError::Blank) => open::make(device, setup.heap, section.make_options(), rng),
        _ => Ok(device),
    }
}

fn name(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

impl LibOs for Cattree {
    const NAME: &'static str = "cattree";

    fn create(setup: Setup<'_>) -> Result<Cattree, Error> {
        let section = CattreeSection::load(setup.config)?;
        let device = section.device.open(setup.heap)?;
        Cattree::over(&setup, &section, device, &mut fastrand::Rng::new())
    }

    fn open(&mut self, cx: &mut Cx<'_>, path: &Path, options: &OpenOptions) -> Result<QDesc, Error> {
        if self.queues.len() >= self.max_queues {
            return Err(Error::TooManyQueues(self.max_queues));
        }
        if names_region(path) {
            return Err(Error::NotSupported("regions of memory: catmint has them"));
        }
        let handle = self.store.open_log(cx, name(path), options)?;
        self.queues.insert(handle)
    }

    fn seek(&mut self, cx: &mut Cx<'_>, qd: QDesc, to: SeekTo) -> Result<Position, Error> {
        let handle = *self.queues.get(qd)?;
        self.store.seek(cx, handle, to)
    }

    fn truncate(&mut self, cx: &mut Cx<'_>, qd: QDesc, position: Position) -> Result<(), Error> {
        let handle = *self.queues.get(qd)?;
        if !handle.writes {
            return Err(Error::ReadOnly);
        }
        self.store.truncate(cx, handle.log, position)
    }

    fn discard(&mut self, cx: &mut Cx<'_>, qd: QDesc, position: Position) -> Result<(), Error> {
        let handle = *self.queues.get(qd)?;
        if !handle.writes {
            return Err(Error::ReadOnly);
        }
        self.store.discard(cx, handle.log, position)
    }

    fn unlink(&mut self, cx: &mut Cx<'_>, path: &Path) -> Result<(), Error> {
        self.store.unlink(cx, name(path))
    }

    fn list(&self, visit: &mut dyn FnMut(&Path)) -> Result<(), Error> {
        self.store.list().for_each(|name| visit(Path::new(std::ffi::OsStr::from_bytes(name))));
        Ok(())
    }

    fn close(&mut self, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error> {
        let handle = self.queues.remove(qd)?;
        self.store.close(cx, handle);
        Ok(())
    }

    fn kind(&self, qd: QDesc) -> Result<QueueKind, Error> {
        self.queues.get(qd).map(|_| QueueKind::Message)
    }

    fn start(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc, op: &mut Op) -> Result<Step, Error> {
        let handle = *self.queues.get(qd)?;
        match op {
            Op::Pop { .. } => self.store.pop(cx.now, token, handle.reader),
            Op::Push { .. } if !handle.writes => Err(Error::ReadOnly),
            Op::Push { .. } | Op::Flush => self.store.push(cx, token, handle.log, op),
            Op::Accept | Op::Connect(_) => Err(Error::NotSupported("a socket operation on a log")),
            Op::Atomic { .. } => Err(Error::NotSupported("atomic operations on a log")),
        }
    }

    fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc) -> Result<(), Error> {
        match self.queues.get(qd) {
            Ok(handle) => {
                let handle = *handle;
                self.store.cancel(cx, token, handle)
            }
            // Only pushes outlive their descriptor, and those are on their way.
            Err(_) => Err(Error::NotCancellable),
        }
    }

    fn poll(&mut self, cx: &mut Cx<'_>) -> usize {
        self.store.poll(cx)
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.store.next_deadline()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.store.wait_fd()
    }

    fn arm(&mut self, cx: &mut Cx<'_>) -> bool {
        self.store.arm(cx)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.store.visit_counters(visit);
    }
}
