//! What peers may reach: regions that they share with their owner, and grants, which one of them may read.
//!
//! A granted buffer cannot change, so a copy that is made when it is granted is as good as the buffer itself.

use std::collections::HashMap;

use super::super::{Access, Atomic, Fault, Remote};

/// Who a grant is for: end and queue pair there, with its generation, of the one that may read.
pub(super) type Reader = (usize, u32, u32);

#[derive(Debug)]
struct Piece {
    owner: usize,
    base: u64,
    bytes: Vec<u8>,
    access: Access,
    /// Nobody else may; `None`: whoever has the key.
    reader: Option<Reader>,
}

/// All memory of all instances that anybody may reach, by key.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pieces: HashMap<u32, Piece>,
    next: u64,
}

impl Memory {
    pub(super) fn add(
        &mut self,
        rng: &mut fastrand::Rng,
        owner: usize,
        bytes: Vec<u8>,
        access: Access,
        reader: Option<Reader>,
    ) -> (u32, Remote) {
        let key = loop {
            let key = rng.u32(1..);
            if !self.pieces.contains_key(&key) {
                break key;
            }
        };
        let base = 0x7f00_0000_0000 + self.next;
        self.next += (bytes.len() as u64).next_multiple_of(4096) + 4096;
        self.pieces.insert(key, Piece { owner, base, bytes, access, reader });
        (key, Remote { addr: base, key })
    }

    pub(super) fn remove(&mut self, key: u32) {
        self.pieces.remove(&key);
    }

    pub(super) fn remove_all(&mut self, owner: usize) {
        self.pieces.retain(|_, piece| piece.owner != owner);
    }

    pub(super) fn place(&self, key: u32) -> Option<Remote> {
        self.pieces.get(&key).map(|piece| Remote { addr: piece.base, key })
    }

    /// The bytes that a peer means, if it may.
    fn reach(
        &mut self,
        owner: usize,
        by: Reader,
        at: Remote,
        len: usize,
        may: fn(Access) -> bool,
    ) -> Result<&mut [u8], Fault> {
        let piece = self.pieces.get_mut(&at.key).ok_or(Fault::RemoteAccess)?;
        if piece.owner != owner || !may(piece.access) || piece.reader.is_some_and(|reader| reader != by) {
            return Err(Fault::RemoteAccess);
        }
        let offset = at.addr.checked_sub(piece.base).ok_or(Fault::RemoteAccess)?;
        let offset = usize::try_from(offset).map_err(|_| Fault::RemoteAccess)?;
        let end = offset.checked_add(len).ok_or(Fault::RemoteAccess)?;
        piece.bytes.get_mut(offset..end).ok_or(Fault::RemoteAccess)
    }

    pub(super) fn read(
        &mut self,
        owner: usize,
        by: Reader,
        at: Remote,
        len: usize,
    ) -> Result<Vec<u8>, Fault> {
        self.reach(owner, by, at, len, |access| access.read).map(|bytes| bytes.to_vec())
    }

    pub(super) fn write(&mut self, owner: usize, by: Reader, at: Remote, bytes: &[u8]) -> Result<(), Fault> {
        // Nothing is written nowhere.
        if bytes.is_empty() {
            return Ok(());
        }
        self.reach(owner, by, at, bytes.len(), |access| access.write)?.copy_from_slice(bytes);
        Ok(())
    }

    pub(super) fn atomic(&mut self, owner: usize, by: Reader, at: Remote, op: Atomic) -> Result<u64, Fault> {
        if !at.addr.is_multiple_of(8) {
            return Err(Fault::RemoteOperation);
        }
        self.reach(owner, by, at, 8, |access| access.atomic).map(|word| apply(word, op))
    }

    /// The owner's own access.
    pub(super) fn own(&mut self, key: u32, offset: usize, len: usize) -> Option<&mut [u8]> {
        self.pieces.get_mut(&key)?.bytes.get_mut(offset..offset.checked_add(len)?)
    }

    pub(super) fn own_atomic(&mut self, key: u32, offset: usize, op: Atomic) -> Option<u64> {
        if !offset.is_multiple_of(8) {
            return None;
        }
        self.own(key, offset, 8).map(|word| apply(word, op))
    }
}

fn apply(word: &mut [u8], op: Atomic) -> u64 {
    let before = u64::from_ne_bytes(word[..8].try_into().expect("eight bytes were asked for"));
    let after = match op {
        Atomic::CompareSwap { expected, new } if before == expected => new,
        Atomic::CompareSwap { .. } => before,
        Atomic::FetchAdd(add) => before.wrapping_add(add),
    };
    word.copy_from_slice(&after.to_ne_bytes());
    before
}
