//! Writing a checkpoint, beside everything else: a flush if something is not durable, then the checkpoint's area, then the
//! superblock that names it.

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::slab::Key;

use super::io::{Purpose, aligned};
use super::{Store, io};
use crate::device::{Command, DeviceCx};
use crate::format::Checkpoint;

/// A checkpoint on its way.
#[derive(Debug)]
pub(crate) struct Saving {
    stage: Stage,
    /// Requests that have not ended.
    left: usize,
    failed: Option<Error>,
    closed: bool,
    /// A superblock that could not be written is being written again; the checkpoint comes after it.
    again: bool,
}

#[derive(Debug)]
enum Stage {
    /// Logs with the position up to which they will be durable.
    Flush(Vec<(Key, u64)>),
    Area,
    Superblock,
}

impl Store {
    /// Begins to write a checkpoint. None is being written.
    pub(super) fn begin_save(&mut self, cx: &mut Cx<'_>, closed: bool) {
        self.save_failed = None;
        if self.unnamed {
            let saving = Saving { stage: Stage::Superblock, left: 0, failed: None, closed, again: true };
            let begun = self.write_superblock(cx);
            self.went_on(saving, begun);
            return;
        }
        let mut unstable = Vec::new();
        for key in self.names.values() {
            if let Some(log) = self.logs.get(*key)
                && log.stable < log.acked
            {
                unstable.push((*key, log.acked));
            }
        }
        let flushes = !unstable.is_empty();
        self.saving = Some(Saving {
            stage: Stage::Flush(unstable),
            left: usize::from(flushes),
            failed: None,
            closed,
            again: false,
        });
        if flushes {
            let device_cx = DeviceCx { heap: &self.heap, now: cx.now };
            self.counters.flushes += 1;
            self.io.submit(&device_cx, Purpose::Save, Command::Flush);
        } else {
            self.save_next(cx);
        }
    }

    /// A part of the checkpoint has ended.
    pub(super) fn save_went_on(&mut self, cx: &mut Cx<'_>, result: Result<(), Error>) {
        let Some(saving) = &mut self.saving else { return };
        saving.left -= 1;
        if let Err(error) = result {
            saving.failed.get_or_insert(error);
        }
        if saving.left == 0 {
            self.save_next(cx);
        }
    }

    /// The present stage is complete: begins the next.
    fn save_next(&mut self, cx: &mut Cx<'_>) {
        let Some(mut saving) = self.saving.take() else { return };
        if let Some(error) = saving.failed.take() {
            // It may be on the medium nevertheless, and name a checkpoint that must not be overwritten then.
            self.unnamed |= matches!(saving.stage, Stage::Superblock);
            self.save_failed = Some(error);
            return;
        }
        let written = match &saving.stage {
            Stage::Flush(flushed) => {
                for (key, up_to) in flushed {
                    if let Some(log) = self.logs.get_mut(*key) {
                        // It may have been cut meanwhile.
                        log.stable = log.stable.max((*up_to).min(log.acked));
                        log.acknowledge(cx);
                    }
                }
                saving.stage = Stage::Area;
                let closed = saving.closed;
                self.write_area(cx, closed)
            }
            Stage::Area => {
                saving.stage = Stage::Superblock;
                self.write_superblock(cx)
            }
            Stage::Superblock => {
                self.unnamed = false;
                self.superblock.checkpoint += 1;
                self.superblock.generation += 1;
                self.space.complete();
                self.counters.checkpoints += 1;
                if saving.again {
                    self.begin_save(cx, saving.closed);
                }
                return;
            }
        };
        self.went_on(saving, written);
    }

    /// The next stage has begun with so many requests, or cannot begin.
    fn went_on(&mut self, mut saving: Saving, begun: Result<usize, Error>) {
        match begun {
            Ok(left) => {
                saving.left = left;
                self.saving = Some(saving);
            }
            Err(error) => {
                self.unnamed |= matches!(saving.stage, Stage::Superblock);
                self.save_failed = Some(error);
            }
        }
    }

    fn write_area(&mut self, cx: &Cx<'_>, closed: bool) -> Result<usize, Error> {
        let number = self.superblock.checkpoint + 1;
        let set_aside = self.space.set_aside();
        let mut logs: Vec<_> =
            self.names.values().filter_map(|key| self.logs.get(*key)).map(|log| log.entry()).collect();
        logs.sort_by_key(|log| log.id);
        let checkpoint = Checkpoint {
            number,
            identity: self.superblock.identity_half(),
            epoch: self.epoch,
            next_sequence: self.space.next_sequence(),
            next_log: self.next_log,
            closed,
            set_aside,
            logs,
        };
        let mut bytes = vec![0; self.geometry.block_up(checkpoint.len())];
        checkpoint.emit(&mut bytes, self.seed);
        let piece = self.io.caps().max_transfer.min(io::MAX_PIECE);
        // All memory first: a checkpoint that cannot be written whole is not begun.
        let parts: Vec<_> =
            bytes.chunks(piece).map(|part| aligned(&self.heap, part)).collect::<Result<_, _>>()?;
        let count = parts.len();
        let device_cx = DeviceCx { heap: &self.heap, now: cx.now };
        let mut offset = self.geometry.checkpoint_at(number);
        for part in parts {
            let len = part.len() as u64;
            let write = Command::Write { offset, data: part.into(), durable: true };
            self.io.submit(&device_cx, Purpose::Save, write);
            offset += len;
        }
        Ok(count)
    }

    fn write_superblock(&mut self, cx: &Cx<'_>) -> Result<usize, Error> {
        let mut next = self.superblock;
        next.generation += 1;
        next.checkpoint += 1;
        let mut bytes = vec![0; self.geometry.block_size];
        next.emit(&mut bytes);
        let data = aligned(&self.heap, &bytes)?.into();
        let offset = self.geometry.superblock_at(next.generation);
        let device_cx = DeviceCx { heap: &self.heap, now: cx.now };
        self.io.submit(&device_cx, Purpose::Save, Command::Write { offset, data, durable: true });
        Ok(1)
    }
}
