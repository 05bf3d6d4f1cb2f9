//! Ways for elements to go: every kind of queue, seen as a near end to push to and a far end to pop from.

use demi_api::graph::frame::{Codec, Endian};
use demi_api::{QDesc, QueueKind};

use super::rig::{Harness, Rig};

/// Two ends of one way. They may be the same queue.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// What it is, for messages of failed tests.
    pub what: &'static str,
    /// Where to push.
    pub near: QDesc,
    /// Where to pop.
    pub far: QDesc,
}

/// The codec that turns connections into message queues.
pub(super) fn codec() -> Codec {
    Codec::LengthPrefix { bytes: 4, endian: Endian::Big }
}

impl<H: Harness> Rig<H> {
    /// One of every kind that keeps boundaries.
    pub fn message_lines(&self) -> Vec<Line> {
        let memory = self.demi.queue().unwrap();
        let mut lines = vec![Line { what: "queue in memory", near: memory, far: memory }];
        if self.harness.datagram_addr().is_some() {
            let (near, far) = self.datagrams();
            lines.push(Line { what: "datagrams", near, far });
        }
        if self.harness.stream_addr().is_some() {
            let (near, far) = self.connected();
            lines.push(match self.harness.connections() {
                QueueKind::Message => Line { what: "connection", near, far },
                QueueKind::Stream => {
                    let [near, far] = [near, far].map(|qd| self.demi.frame(qd, codec()).unwrap());
                    Line { what: "framed connection", near, far }
                }
            });
        }
        if self.harness.path().is_some() {
            let (log, _) = self.storage();
            if self.is_message(log) {
                lines.push(Line { what: "log", near: log, far: log });
            } else {
                self.close([log]);
            }
        }
        lines
    }

    /// One of every kind that does not.
    pub fn stream_lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.harness.stream_addr().is_some() && self.harness.connections() == QueueKind::Stream {
            let (near, far) = self.connected();
            lines.push(Line { what: "connection", near, far });
        }
        lines
    }
}

impl Line {
    /// Closes the near end, if the far end, or what was derived from it, is closed already.
    #[track_caller]
    pub fn close_near<H: Harness>(&self, rig: &Rig<H>) {
        if self.near != self.far {
            rig.close([self.near]);
        }
    }

    /// Closes both ends.
    #[track_caller]
    pub fn close<H: Harness>(&self, rig: &Rig<H>) {
        rig.close([self.far]);
        self.close_near(rig);
    }
}
