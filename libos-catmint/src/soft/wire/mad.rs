//! The connection manager's messages: management datagrams of 256 bytes between queue pairs 1.
//!
//! Only what reliable connections need: no path migration, no service resolution. An alternate path in a request
//! is not read and not written. Private data is a slice of the datagram, with the zeros that pad it.

use super::bytes::{array, get16, get24, get32, get64, put, put16, put24, put32, put64};
use super::{DEFAULT_PKEY, Psn, Qpn, WireError};

/// Bytes of every management datagram.
pub const MAD_LEN: usize = 256;
/// The queue key of queue pair 1.
pub const GSI_QKEY: u32 = 0x8001_0000;
/// Private data of a request, the IP service's header included.
pub const REQUEST_DATA: usize = 92;

const HEADER_LEN: usize = 24;
const REPLY_DATA: usize = 196;
const REJECT_DATA: usize = 148;
/// Base version 1, class 7 (communication management), class version 2, method Send.
const CLASS: [u8; 4] = [1, 7, 2, 3];

/// One side's name of a connection that is being made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CommId(pub u32);

/// A message, and what ties an answer to its question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mad<'a> {
    /// Chosen by who asks, repeated by who answers.
    pub transaction: u64,
    /// The message.
    pub message: Message<'a>,
}

/// What a connection manager says. `local` is the sender's name of the connection, `remote` the receiver's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "names and addresses are explained once")]
pub enum Message<'a> {
    /// REQ.
    Request(Request<'a>),
    /// MRA: the answer will take a while.
    Delay {
        local: CommId,
        remote: CommId,
        answered: Answered,
        /// For how long, from now: 4.096 µs × 2^n.
        timeout: u8,
    },
    /// REJ.
    Reject {
        /// Zero if it has none.
        local: CommId,
        remote: CommId,
        answered: Answered,
        reason: Reason,
        private: &'a [u8],
    },
    /// REP.
    Reply(Reply<'a>),
    /// RTU.
    Ready { local: CommId, remote: CommId },
    /// DREQ, with the queue pair of the receiver.
    Disconnect { local: CommId, remote: CommId, qpn: Qpn },
    /// DREP.
    Disconnected { local: CommId, remote: CommId },
}

/// A request to connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// The sender's name of the connection.
    pub local: CommId,
    /// Who is asked for.
    pub service: u64,
    /// Tells the sender's adapter from all others.
    pub guid: u64,
    /// The sender's queue pair.
    pub qpn: Qpn,
    /// With which number the receiver is to begin.
    pub psn: Psn,
    /// READs and atomic operations that the sender answers at a time.
    pub responder_resources: u8,
    /// As many as the sender will have under way.
    pub initiator_depth: u8,
    /// Within what time the receiver is to answer this, and the sender answers the reply: 4.096 µs × 2^n.
    pub cm_timeouts: [u8; 2],
    /// How often packets are repeated, below 8.
    pub retry_count: u8,
    /// How often after an RNR NAK; 7 stands for ever.
    pub rnr_retry_count: u8,
    /// How often the sender repeats its messages, below 16.
    pub cm_retries: u8,
    /// Code of the path's MTU: 1 is 256, 5 is 4096.
    pub mtu: u8,
    /// The sender has a shared receive queue.
    pub shared_receives: bool,
    /// The sender's address.
    pub local_gid: [u8; 16],
    /// The receiver's.
    pub remote_gid: [u8; 16],
    /// Of the packets to come.
    pub flow_label: u32,
    /// Code of the path's speed.
    pub rate: u8,
    /// DSCP of the packets to come.
    pub traffic_class: u8,
    /// TTL of the packets to come.
    pub hop_limit: u8,
    /// How long the sender waits for an acknowledgement: 4.096 µs × 2^n.
    pub ack_timeout: u8,
    /// [`REQUEST_DATA`] bytes when parsed, at most as many to emit.
    pub private: &'a [u8],
}

/// A reply that accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply<'a> {
    /// The sender's name of the connection.
    pub local: CommId,
    /// The receiver's.
    pub remote: CommId,
    /// Tells the sender's adapter from all others.
    pub guid: u64,
    /// The sender's queue pair.
    pub qpn: Qpn,
    /// With which number the receiver is to begin.
    pub psn: Psn,
    /// READs and atomic operations that the sender answers at a time.
    pub responder_resources: u8,
    /// As many as the sender will have under way.
    pub initiator_depth: u8,
    /// How long its acknowledgements may take: 4.096 µs × 2^n.
    pub ack_delay: u8,
    /// How often the receiver repeats after an RNR NAK; 7 stands for ever.
    pub rnr_retry_count: u8,
    /// The sender has a shared receive queue.
    pub shared_receives: bool,
    /// 196 bytes when parsed, at most as many to emit.
    pub private: &'a [u8],
}

/// Which message a REJ or MRA is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    /// REQ.
    Request = 0,
    /// REP.
    Reply = 1,
    /// Something else, or nothing.
    Other = 2,
}

impl Answered {
    fn parse(byte: u8) -> Answered {
        match byte >> 6 {
            0 => Answered::Request,
            1 => Answered::Reply,
            _ => Answered::Other,
        }
    }
}

/// Why a connection is rejected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reason(pub u16);

#[allow(missing_docs, reason = "the names say it")]
impl Reason {
    pub const NO_QUEUE_PAIR: Reason = Reason(1);
    pub const NO_RESOURCES: Reason = Reason(3);
    pub const TIMEOUT: Reason = Reason(4);
    pub const UNSUPPORTED: Reason = Reason(5);
    pub const INVALID_COMM_ID: Reason = Reason(6);
    pub const INVALID_SERVICE: Reason = Reason(8);
    pub const INVALID_TRANSPORT: Reason = Reason(9);
    pub const STALE: Reason = Reason(10);
    pub const INVALID_MTU: Reason = Reason(26);
    pub const CONSUMER: Reason = Reason(28);
    pub const DUPLICATE_COMM_ID: Reason = Reason(30);
}

mod attribute {
    pub(super) const REQUEST: u16 = 0x10;
    pub(super) const DELAY: u16 = 0x11;
    pub(super) const REJECT: u16 = 0x12;
    pub(super) const REPLY: u16 = 0x13;
    pub(super) const READY: u16 = 0x14;
    pub(super) const DISCONNECT: u16 = 0x15;
    pub(super) const DISCONNECTED: u16 = 0x16;
}

impl<'a> Mad<'a> {
    /// Reads a datagram's payload.
    ///
    /// # Errors
    /// When it is shorter than [`MAD_LEN`], of another class, or no message that is known here.
    pub fn parse(bytes: &'a [u8]) -> Result<Mad<'a>, WireError> {
        let Some(bytes) = bytes.get(..MAD_LEN) else { return Err(WireError::Short) };
        let (header, body) = bytes.split_at(HEADER_LEN);
        if header[..4] != CLASS {
            return Err(WireError::Mad);
        }
        let (local, remote) = (CommId(get32(body, 0)), CommId(get32(body, 4)));
        let message = match get16(header, 16) {
            attribute::REQUEST => Message::Request(Request::parse(body)?),
            attribute::DELAY => {
                let answered = Answered::parse(body[8]);
                Message::Delay { local, remote, answered, timeout: body[9] >> 3 }
            }
            attribute::REJECT => Message::Reject {
                local,
                remote,
                answered: Answered::parse(body[8]),
                reason: Reason(get16(body, 10)),
                private: &body[84..],
            },
            attribute::REPLY => Message::Reply(Reply::parse(body)),
            attribute::READY => Message::Ready { local, remote },
            attribute::DISCONNECT => Message::Disconnect { local, remote, qpn: Qpn::new(get24(body, 8)) },
            attribute::DISCONNECTED => Message::Disconnected { local, remote },
            _ => return Err(WireError::Mad),
        };
        Ok(Mad { transaction: get64(header, 8), message })
    }

    /// Writes the datagram's payload. Private data that is too long is cut.
    pub fn emit(&self) -> [u8; MAD_LEN] {
        let mut out = [0; MAD_LEN];
        put(&mut out, 0, &CLASS);
        put64(&mut out, 8, self.transaction);
        let body = &mut out[HEADER_LEN..];
        let mut ids = |local: CommId, remote: CommId| {
            put32(body, 0, local.0);
            put32(body, 4, remote.0);
        };
        let kind = match self.message {
            Message::Request(request) => {
                request.emit(body);
                attribute::REQUEST
            }
            Message::Delay { local, remote, answered, timeout } => {
                ids(local, remote);
                body[8] = (answered as u8) << 6;
                body[9] = timeout << 3;
                attribute::DELAY
            }
            Message::Reject { local, remote, answered, reason, private } => {
                ids(local, remote);
                body[8] = (answered as u8) << 6;
                put16(body, 10, reason.0);
                put_data(&mut body[84..], private, REJECT_DATA);
                attribute::REJECT
            }
            Message::Reply(reply) => {
                ids(reply.local, reply.remote);
                reply.emit(body);
                attribute::REPLY
            }
            Message::Ready { local, remote } => {
                ids(local, remote);
                attribute::READY
            }
            Message::Disconnect { local, remote, qpn } => {
                ids(local, remote);
                put24(body, 8, qpn.value());
                attribute::DISCONNECT
            }
            Message::Disconnected { local, remote } => {
                ids(local, remote);
                attribute::DISCONNECTED
            }
        };
        put16(&mut out, 16, kind);
        out
    }
}

impl<'a> Request<'a> {
    fn parse(body: &'a [u8]) -> Result<Request<'a>, WireError> {
        if body[43] >> 1 & 3 != 0 || body[51] & 7 != 0 {
            return Err(WireError::Field("transport service type"));
        }
        let mtu = body[50] >> 4;
        if !(1..=5).contains(&mtu) {
            return Err(WireError::Field("path MTU"));
        }
        Ok(Request {
            local: CommId(get32(body, 0)),
            service: get64(body, 8),
            guid: get64(body, 16),
            qpn: Qpn::new(get24(body, 32)),
            psn: Psn::new(get24(body, 44)),
            responder_resources: body[35],
            initiator_depth: body[39],
            cm_timeouts: [body[43] >> 3, body[47] >> 3],
            retry_count: body[47] & 7,
            rnr_retry_count: body[50] & 7,
            cm_retries: body[51] >> 4,
            mtu,
            shared_receives: body[51] & 8 != 0,
            local_gid: array(body, 56),
            remote_gid: array(body, 72),
            flow_label: get32(body, 88) >> 12,
            rate: body[91] & 0x3F,
            traffic_class: body[92],
            hop_limit: body[93],
            ack_timeout: body[95] >> 3,
            private: &body[140..140 + REQUEST_DATA],
        })
    }

    fn emit(&self, body: &mut [u8]) {
        put32(body, 0, self.local.0);
        put64(body, 8, self.service);
        put64(body, 16, self.guid);
        put24(body, 32, self.qpn.value());
        body[35] = self.responder_resources;
        body[39] = self.initiator_depth;
        body[43] = self.cm_timeouts[0] << 3;
        put24(body, 44, self.psn.value());
        body[47] = self.cm_timeouts[1] << 3 | self.retry_count & 7;
        put16(body, 48, DEFAULT_PKEY);
        body[50] = self.mtu << 4 | self.rnr_retry_count & 7;
        body[51] = self.cm_retries << 4 | u8::from(self.shared_receives) << 3;
        // No local identifiers: they are InfiniBand's own.
        put32(body, 52, u32::MAX);
        put(body, 56, &self.local_gid);
        put(body, 72, &self.remote_gid);
        put32(body, 88, self.flow_label << 12 | u32::from(self.rate & 0x3F));
        body[92] = self.traffic_class;
        body[93] = self.hop_limit;
        // Packets that no router may pass on stay in their subnet.
        body[94] = u8::from(self.hop_limit <= 1) << 3;
        body[95] = self.ack_timeout << 3;
        put_data(&mut body[140..], self.private, REQUEST_DATA);
    }
}

impl<'a> Reply<'a> {
    fn parse(body: &'a [u8]) -> Reply<'a> {
        Reply {
            local: CommId(get32(body, 0)),
            remote: CommId(get32(body, 4)),
            guid: get64(body, 28),
            qpn: Qpn::new(get24(body, 12)),
            psn: Psn::new(get24(body, 20)),
            responder_resources: body[24],
            initiator_depth: body[25],
            ack_delay: body[26] >> 3,
            rnr_retry_count: body[27] >> 5,
            shared_receives: body[27] & 0x10 != 0,
            private: &body[36..36 + REPLY_DATA],
        }
    }

    fn emit(&self, body: &mut [u8]) {
        put24(body, 12, self.qpn.value());
        put24(body, 20, self.psn.value());
        body[24] = self.responder_resources;
        body[25] = self.initiator_depth;
        body[26] = self.ack_delay << 3;
        body[27] = self.rnr_retry_count << 5 | u8::from(self.shared_receives) << 4;
        put64(body, 28, self.guid);
        put_data(&mut body[36..], self.private, REPLY_DATA);
    }
}

fn put_data(out: &mut [u8], private: &[u8], most: usize) {
    let len = private.len().min(most);
    put(out, 0, &private[..len]);
}
