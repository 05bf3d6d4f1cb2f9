//! Regions of this instance: their making, who uses them, their end.

use std::net::SocketAddr;

use demi_api::error::Error;
use demi_api::libos::{Cx, OpenOptions};
use demi_api::slab::Key;

use super::hello::{self, Found};
use super::local::Local;
use super::path::{ALL, RegionPath};
use super::{Owner, Queue, Regions, device_cx};
use crate::device::{Access, ListenId, Qp, RdmaDevice, Region, Remote, RequestId, Then};
use crate::wire::Word;

/// A region of this instance.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) name: String,
    pub(super) region: Region,
    pub(super) len: usize,
    access: Access,
    /// Queues of this instance on it. With the last, it goes.
    queues: usize,
    /// The queue pairs of those of peers.
    users: Vec<Qp>,
    /// Where it was opened, and is therefore listened for.
    pub(super) at: Option<SocketAddr>,
}

/// An address where requests are accepted for the sake of regions.
#[derive(Debug)]
pub(super) struct Listening {
    addr: SocketAddr,
    id: ListenId,
    regions: usize,
}

impl Regions {
    pub(super) fn open_local(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &mut Cx<'_>,
        path: &RegionPath<'_>,
        options: &OpenOptions,
        listens: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<Key, Error> {
        let export = match self.by_name.get(path.name).copied() {
            Some(_) if options.exclusive => return Err(Error::Exists),
            Some(key) => self.open_again(device, path, options, key)?,
            None if options.create => self.export(device, cx, path, listens)?,
            None => return Err(Error::NotFound),
        };
        let local = Local { export, cursor: 0, read_only: options.read_only };
        Ok(self.queues.insert(Queue::Local(local)))
    }

    /// Makes a region.
    fn export(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &mut Cx<'_>,
        path: &RegionPath<'_>,
        listens: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<Key, Error> {
        let len = path.size.ok_or(Error::Invalid("a new region needs a size: rdma:///name?size=4096"))?;
        let access = path.access.unwrap_or(ALL);
        let region = device.region(len, access)?;
        let at = match path.at.map(|at| self.listen(device, cx, at, listens)).transpose() {
            Ok(at) => at,
            Err(error) => {
                device.unregion(region);
                return Err(error);
            }
        };
        let name = path.name.to_owned();
        let export = Export { name: name.clone(), region, len, access, queues: 1, users: Vec::new(), at };
        let key = self.exports.insert(export);
        self.by_name.insert(name, key);
        self.counters.regions_exported += 1;
        Ok(key)
    }

    /// Another queue on a region that there is.
    fn open_again(
        &mut self,
        device: &mut dyn RdmaDevice,
        path: &RegionPath<'_>,
        options: &OpenOptions,
        key: Key,
    ) -> Result<Key, Error> {
        let export = self.exports.get_mut(key).ok_or(Error::NotFound)?;
        let same = path.size.is_none_or(|size| size == export.len)
            && path.access.is_none_or(|access| access == export.access)
            && path.at.is_none_or(|at| export.at == Some(at));
        if !same {
            return Err(Error::Invalid("the region exists with another size, access or address"));
        }
        export.queues += 1;
        if options.truncate {
            const ZEROS: [u8; 4096] = [0; 4096];
            for offset in (0..export.len).step_by(ZEROS.len()) {
                device.copy_in(export.region, offset, &ZEROS[..ZEROS.len().min(export.len - offset)]);
            }
        }
        Ok(key)
    }

    fn listen(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &Cx<'_>,
        at: SocketAddr,
        listens: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<SocketAddr, Error> {
        if let Some(listening) = self.listening.iter_mut().find(|listening| listening.addr == at) {
            listening.regions += 1;
            return Ok(at);
        }
        match device.listen(&device_cx(cx), at) {
            Ok((id, addr)) => {
                self.listening.push(Listening { addr, id, regions: 1 });
                Ok(addr)
            }
            // Whoever asks there asks this instance.
            Err(Error::AddressInUse) if listens(at) => Ok(at),
            Err(error) => Err(error),
        }
    }

    fn unlisten(&mut self, device: &mut dyn RdmaDevice, cx: &Cx<'_>, at: SocketAddr) {
        let Some(index) = self.listening.iter().position(|listening| listening.addr == at) else { return };
        self.listening[index].regions -= 1;
        if self.listening[index].regions == 0 {
            device.unlisten(&device_cx(cx), self.listening.swap_remove(index).id);
        }
    }

    /// A queue of this instance is closed. With the last, the region is taken from everybody.
    pub(super) fn release(&mut self, device: &mut dyn RdmaDevice, cx: &Cx<'_>, key: Key) {
        let Some(export) = self.exports.get_mut(key) else { return };
        export.queues -= 1;
        if export.queues > 0 {
            return;
        }
        let Some(export) = self.exports.remove(key) else { return };
        self.by_name.remove(&export.name);
        // The queue pairs first: so nobody is caught by a protection fault who does what was allowed.
        for qp in &export.users {
            self.own(*qp, Owner::Leaving);
            device.disconnect(&device_cx(cx), *qp);
        }
        device.unregion(export.region);
        if let Some(at) = export.at {
            self.unlisten(device, cx, at);
        }
        self.counters.regions_revoked += 1;
    }

    /// A peer asks for a region.
    pub(crate) fn asked(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &Cx<'_>,
        request: RequestId,
        hello: &[u8],
    ) {
        let answer = self.answer(device, hello);
        let accepted = answer.and_then(|(key, found)| {
            let qp = device.accept(&device_cx(cx), request, &hello::found(&found));
            // It has been withdrawn, or there are no queue pairs left.
            qp.map(|qp| (key, qp)).map_err(|_| Word::NO_ROOM)
        });
        match accepted {
            Ok((key, qp)) => {
                self.own(qp, Owner::User(key));
                self.users += 1;
                self.counters.region_users += 1;
                if let Some(export) = self.exports.get_mut(key) {
                    export.users.push(qp);
                }
                self.watch.get_or_insert(cx.now + self.limits.watch);
            }
            Err(word) => {
                self.counters.region_users_refused += 1;
                device.reject(&device_cx(cx), request, &hello::refusal(word));
            }
        }
    }

    fn answer(&self, device: &dyn RdmaDevice, hello: &[u8]) -> Result<(Key, Found), u16> {
        let key = *self.by_name.get(hello::asked(hello)?).ok_or(Word::NO_REGION)?;
        let export = self.exports.get(key).ok_or(Word::NO_REGION)?;
        if self.users >= self.limits.users {
            return Err(Word::NO_ROOM);
        }
        let place: Remote = device.place(export.region).ok_or(Word::NO_REGION)?;
        Ok((key, Found { place, len: export.len as u64, access: export.access }))
    }

    /// The queue pair of a peer's queue has ended.
    pub(super) fn user_gone(&mut self, qp: Qp, owner: Owner) {
        self.users -= 1;
        if self.users == 0 {
            self.watch = None;
        }
        if let Owner::User(key) = owner
            && let Some(export) = self.exports.get_mut(key)
        {
            export.users.retain(|other| *other != qp);
        }
    }

    /// Tries whether users are still there, who may have nothing to say for long: a write of no bytes fails if nobody is.
    pub(super) fn try_users(&mut self, device: &mut dyn RdmaDevice, cx: &Cx<'_>) {
        let nowhere = Remote { addr: 0, key: 0 };
        for (_, export) in self.exports.entries_mut() {
            for qp in &export.users {
                // Without room there is something under way already.
                let _refused = device.write(&device_cx(cx), *qp, nowhere, Default::default(), Then::Quiet);
            }
        }
        self.posted = true;
        self.watch = (self.users > 0).then(|| cx.now + self.limits.watch);
    }
}
