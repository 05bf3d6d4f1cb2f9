//! The extended transport headers, which stand between the base header and the payload: RETH, AETH, AtomicETH, DETH.

use std::time::Duration;

use super::bytes::{get24, get32, get64, put24, put32, put64};
use super::{Qpn, WireError};

/// RDMA extended transport header: which remote memory a READ or WRITE means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reth {
    /// Remote virtual address.
    pub address: u64,
    /// Key that the memory's owner handed out.
    pub key: u32,
    /// Bytes of the whole message.
    pub len: u32,
}

impl Reth {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    pub(super) fn parse(bytes: &[u8]) -> Reth {
        Reth { address: get64(bytes, 0), key: get32(bytes, 8), len: get32(bytes, 12) }
    }

    pub(super) fn emit(&self, out: &mut [u8]) {
        put64(out, 0, self.address);
        put32(out, 8, self.key);
        put32(out, 12, self.len);
    }
}

/// Atomic extended transport header: which eight bytes, and what with them. The numbers are the memory's, in the byte order of
/// the host that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AtomicEth {
    /// Remote virtual address, a multiple of 8.
    pub address: u64,
    /// Key that the memory's owner handed out.
    pub key: u32,
    /// What to put there, or to add.
    pub swap_or_add: u64,
    /// What must be there for it, if it is a comparison.
    pub compare: u64,
}

impl AtomicEth {
    /// Bytes on the wire.
    pub const LEN: usize = 28;

    pub(super) fn parse(bytes: &[u8]) -> AtomicEth {
        AtomicEth {
            address: get64(bytes, 0),
            key: get32(bytes, 8),
            swap_or_add: get64(bytes, 12),
            compare: get64(bytes, 20),
        }
    }

    pub(super) fn emit(&self, out: &mut [u8]) {
        put64(out, 0, self.address);
        put32(out, 8, self.key);
        put64(out, 12, self.swap_or_add);
        put64(out, 20, self.compare);
    }
}

/// Datagram extended transport header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deth {
    /// Has to be the destination's.
    pub qkey: u32,
    /// Whom to answer.
    pub source: Qpn,
}

impl Deth {
    /// Bytes on the wire.
    pub const LEN: usize = 8;

    pub(super) fn parse(bytes: &[u8]) -> Deth {
        Deth { qkey: get32(bytes, 0), source: Qpn::new(get24(bytes, 5)) }
    }

    pub(super) fn emit(&self, out: &mut [u8]) {
        put32(out, 0, self.qkey);
        put32(out, 4, self.source.value());
    }
}

/// ACK extended transport header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aeth {
    /// Whether it is a good word.
    pub syndrome: Syndrome,
    /// Messages that the responder has completed, modulo 2^24.
    pub msn: u32,
}

impl Aeth {
    /// Bytes on the wire.
    pub const LEN: usize = 4;

    pub(super) fn parse(bytes: &[u8]) -> Result<Aeth, WireError> {
        Ok(Aeth { syndrome: Syndrome::parse(bytes[0])?, msn: get24(bytes, 1) })
    }

    pub(super) fn emit(&self, out: &mut [u8]) {
        out[0] = self.syndrome.byte();
        put24(out, 1, self.msn);
    }
}

/// What an AETH says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syndrome {
    /// Everything up to this packet has arrived.
    Ack {
        /// Encoded receive credits, below 32; [`Syndrome::NO_CREDITS`] if there is no flow control.
        credits: u8,
    },
    /// No receive was posted: ask again after a time.
    RnrNak(RnrTimer),
    /// The request is refused.
    Nak(NakCode),
}

impl Syndrome {
    /// Instead of credits, where there is no end-to-end flow control: with a shared receive queue.
    pub const NO_CREDITS: u8 = 31;

    fn parse(byte: u8) -> Result<Syndrome, WireError> {
        let value = byte & 0x1F;
        match byte >> 5 {
            0 => Ok(Syndrome::Ack { credits: value }),
            1 => Ok(Syndrome::RnrNak(RnrTimer(value))),
            3 => NakCode::parse(value).map(Syndrome::Nak),
            _ => Err(WireError::Syndrome(byte)),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Syndrome::Ack { credits } => credits & 0x1F,
            Syndrome::RnrNak(timer) => 1 << 5 | timer.0,
            Syndrome::Nak(code) => 3 << 5 | code as u8,
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NakCode {
    /// Packets are missing: go back to the PSN of this answer.
    Sequence = 0,
    /// No responder can make sense of it.
    InvalidRequest = 1,
    /// The key does not allow it.
    RemoteAccess = 2,
    /// The responder could not carry it out.
    RemoteOperation = 3,
}

impl NakCode {
    fn parse(value: u8) -> Result<NakCode, WireError> {
        Ok(match value {
            0 => NakCode::Sequence,
            1 => NakCode::InvalidRequest,
            2 => NakCode::RemoteAccess,
            3 => NakCode::RemoteOperation,
            _ => return Err(WireError::Syndrome(3 << 5 | value)),
        })
    }
}

/// How long to wait for a receive to be posted, as one of 32 steps between 10 µs and 655 ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RnrTimer(u8);

impl RnrTimer {
    /// In units of 10 µs, by code.
    const STEPS: [u32; 32] = [
        65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048,
        3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
    ];

    /// The shortest one that is not shorter; the longest one if all are.
    pub fn at_least(time: Duration) -> RnrTimer {
        let codes = (1..32).find(|code| RnrTimer(*code).duration() >= time);
        RnrTimer(codes.unwrap_or(0))
    }

    /// How long it is.
    pub fn duration(self) -> Duration {
        Duration::from_micros(10 * u64::from(RnrTimer::STEPS[usize::from(self.0)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_syndrome_is_kept_or_refused() {
        for byte in 0..=255 {
            match Syndrome::parse(byte) {
                Ok(syndrome) => assert_eq!(syndrome.byte(), byte),
                Err(error) => {
                    assert_eq!(error, WireError::Syndrome(byte));
                    assert!(byte >= 0x80 || byte >> 5 == 2 || byte >= 0x64, "{byte:#x}");
                }
            }
        }
    }

    #[test]
    fn a_timer_is_never_shorter_than_asked_for() {
        for micros in [0, 9, 10, 11, 20, 79, 640, 641, 30_720, 491_520, 491_521, 655_360] {
            let time = Duration::from_micros(micros);
            assert!(RnrTimer::at_least(time).duration() >= time, "{time:?}");
        }
        assert_eq!(RnrTimer::at_least(Duration::ZERO).duration(), Duration::from_micros(10));
        assert_eq!(RnrTimer::at_least(Duration::from_millis(12)).duration(), Duration::from_micros(15_360));
        assert_eq!(RnrTimer::at_least(Duration::from_secs(9)).duration(), Duration::from_micros(655_360));
    }
}
