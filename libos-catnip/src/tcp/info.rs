//! What is known of a connection, in the terms of `struct tcp_info`. Zero where nothing is counted: an idle connection is kept
//! small.

use std::time::Duration;

use demi_api::TcpInfo;

use super::Ecn;
use super::conn::{Connection, State};
use super::sockets::Socket;

/// Of a listener, what waits to be accepted stands for what is under way, as with the kernel's.
pub(super) fn of(socket: &Socket) -> TcpInfo {
    let mut info = TcpInfo::default();
    match socket {
        Socket::Fresh(_) => info.state = TcpInfo::CLOSED,
        Socket::TimeWait(_) => info.state = TcpInfo::TIME_WAIT,
        Socket::Listener(listener) => {
            info.state = TcpInfo::LISTEN;
            info.unacked = listener.ready.len() as u32;
            info.sacked = listener.backlog as u32;
        }
        Socket::Connection(entry) => fill(&mut info, &entry.conn),
    }
    info
}

fn fill(info: &mut TcpInfo, conn: &Connection) {
    info.state = state(conn.state);
    info.retransmits = conn.retries;
    info.probes = conn.keep_probes;
    info.options = options(conn);
    info.scales = conn.send_shift | conn.recv_shift << 4;
    info.rto = micros(conn.rtt.rto());
    let mss = u32::from(conn.mss).max(1);
    info.snd_mss = mss;
    info.unacked = conn.flight.segments();
    info.sacked = conn.flight.sacked().div_ceil(mss);
    info.lost = conn.flight.lost().div_ceil(mss);
    info.pmtu = conn.path.mtu() as u32;
    info.rcv_ssthresh = conn.recv_limit;
    info.rtt = conn.rtt.srtt().map_or(0, micros);
    info.rttvar = micros(conn.rtt.rttvar().unwrap_or_default());
    info.snd_ssthresh = match conn.congestion.ssthresh() {
        // As the kernel says that it is not known.
        u32::MAX => i32::MAX as u32,
        bytes => bytes / mss,
    };
    info.snd_cwnd = (conn.congestion.cwnd() / mss).max(1);
    info.rcv_space = conn.settings.recv_buffer;
    info.bytes_acked = conn.send.acked();
    info.notsent_bytes = u32::try_from(conn.send.unsent()).unwrap_or(u32::MAX);
    info.min_rtt = conn.rtt.min_rtt().map_or(u32::MAX, micros);
    info.snd_wnd = conn.window;
    info.rcv_wnd = conn.rcv_right - conn.rcv_nxt;
}

fn options(conn: &Connection) -> u8 {
    let agreed = [
        (conn.timestamps.is_some(), TcpInfo::TIMESTAMPS),
        (conn.sack, TcpInfo::SACK),
        (conn.send_shift > 0 || conn.recv_shift > 0, TcpInfo::WINDOW_SCALE),
        (conn.ecn == Ecn::On, TcpInfo::ECN),
    ];
    agreed.into_iter().filter(|(is_on, _)| *is_on).fold(0, |options, (_, option)| options | option)
}

fn state(state: State) -> u8 {
    match state {
        State::SynSent => TcpInfo::SYN_SENT,
        State::SynReceived => TcpInfo::SYN_RECEIVED,
        State::Established => TcpInfo::ESTABLISHED,
        State::FinWait1 => TcpInfo::FIN_WAIT_1,
        State::FinWait2 => TcpInfo::FIN_WAIT_2,
        State::CloseWait => TcpInfo::CLOSE_WAIT,
        State::Closing => TcpInfo::CLOSING,
        State::LastAck => TcpInfo::LAST_ACK,
        State::TimeWait => TcpInfo::TIME_WAIT,
        State::Closed => TcpInfo::CLOSED,
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
