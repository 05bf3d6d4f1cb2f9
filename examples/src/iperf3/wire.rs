//! Control connections: bytes that name states, and JSON behind its length (four bytes, the most significant first).

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use demi_api::aio::Operation;
use demi_api::{Demikernel, Error, LibOs, QDesc, Shutdown};
use futures::future::{Either, select};
use serde_json::Value;

/// Bytes of a cookie: 36 characters and a zero.
pub(super) const COOKIE: usize = 37;
/// Bytes of the longest parameters, and of the longest results: 128 streams take a quarter of these.
pub(super) const LONGEST_PARAMETERS: usize = 8 << 10;
pub(super) const LONGEST_RESULTS: usize = 64 << 10;

/// How long a peer may take for a step of the protocol.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a peer that was refused may take to read that, and how much it may send meanwhile.
const FAREWELL: Duration = Duration::from_millis(500);
const MOST_UNHEARD: usize = 1 << 20;

pub(super) type Cookie = [u8; COOKIE];

/// What a byte on the control connection says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i8)]
pub(super) enum State {
    TestStart = 1,
    TestRunning = 2,
    TestEnd = 4,
    ParamExchange = 9,
    CreateStreams = 10,
    ServerTerminate = 11,
    ClientTerminate = 12,
    ExchangeResults = 13,
    DisplayResults = 14,
    IperfDone = 16,
    AccessDenied = -1,
    /// Two numbers of 32 bits follow: iperf3's own for what is wrong, and the system's.
    ServerError = -2,
}

impl State {
    const ALL: [State; 12] = [
        State::TestStart,
        State::TestRunning,
        State::TestEnd,
        State::ParamExchange,
        State::CreateStreams,
        State::ServerTerminate,
        State::ClientTerminate,
        State::ExchangeResults,
        State::DisplayResults,
        State::IperfDone,
        State::AccessDenied,
        State::ServerError,
    ];

    pub(super) fn byte(self) -> u8 {
        self as i8 as u8
    }

    fn from_byte(byte: u8) -> Option<State> {
        State::ALL.into_iter().find(|state| state.byte() == byte)
    }
}

/// Declares iperf3's numbers of errors, those that are used here.
macro_rules! codes {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// What is wrong with a test, by iperf3's number.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Code { $(#[doc = $text] $name = $number),* }

        fn meaning(number: i32) -> &'static str {
            match number { $($number => $text,)* _ => "see iperf_api.h" }
        }
    };
}

codes! {
    Duration = 5, "the test's duration is out of range";
    Streams = 6, "the number of streams is out of range";
    BlockSize = 7, "the block size is out of range";
    Unimplemented = 13, "an option is not implemented";
    Cookie = 107, "no cookie was received";
    Closed = 109, "the control connection was closed";
    Message = 110, "an unknown message was received";
    Parameters = 114, "no parameters were received";
    Results = 117, "no results were received";
    ClientGone = 119, "the client has terminated";
    ServerGone = 120, "the server has terminated";
    Busy = 121, "the server is busy with another test, try again later";
    Mss = 123, "the segment size cannot be set";
    BufferSize = 124, "the socket buffers cannot be set";
    Tos = 125, "the type of service cannot be set";
    FlowLabel = 127, "the flow label cannot be set";
    Protocol = 131, "the protocol is not there";
    Congestion = 134, "the congestion control cannot be set";
    Authorization = 142, "the client is not authorized";
    Idle = 144, "nothing was received for too long";
    Stream = 206, "a stream failed";
}

/// Why a test ends before its time.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: Code,
    text: String,
}

impl Fault {
    pub(super) fn new(code: Code, text: impl Into<String>) -> Fault {
        Fault { code, text: text.into() }
    }

    /// For `map_err`.
    pub(super) fn of<E: fmt::Display>(code: Code) -> impl Fn(E) -> Fault {
        move |error| Fault::new(code, error.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", meaning(self.code as i32), self.text)
    }
}

impl std::error::Error for Fault {}

/// A connection, closed with the value that stands for it.
pub(super) struct Conn<L: LibOs> {
    pub(super) demi: Demikernel<L>,
    pub(super) qd: QDesc,
    /// It outlives whoever waits for it, so that a wait that is given up loses nothing.
    pop: Option<Operation<L>>,
    input: Vec<u8>,
}

impl<L: LibOs> Drop for Conn<L> {
    fn drop(&mut self) {
        let _ = self.demi.close(self.qd);
    }
}

impl<L: LibOs + 'static> Conn<L> {
    pub(super) fn new(demi: &Demikernel<L>, qd: QDesc) -> Conn<L> {
        Conn { demi: demi.clone(), qd, pop: None, input: Vec::new() }
    }

    /// Sends bytes; whether they arrive is seen by what the peer does next.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        let token = self.demi.push(self.qd, self.demi.copy_from(bytes)?)?;
        let push = self.demi.operation(token)?;
        self.demi.spawn(push).map(drop)
    }

    pub(super) fn send_state(&self, state: State) -> Result<(), Fault> {
        self.send(&[state.byte()]).map_err(Fault::of(Code::Closed))
    }

    pub(super) fn send_json(&self, value: &Value) -> Result<(), Fault> {
        let text = value.to_string();
        let bytes = [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
        self.send(&bytes).map_err(Fault::of(Code::Closed))
    }

    /// Exactly so many bytes; no more are taken off the connection.
    pub(super) async fn take(&mut self, count: usize) -> Result<Vec<u8>, Error> {
        while self.input.len() < count {
            let pop = match &mut self.pop {
                Some(pop) => pop,
                None => {
                    let token = self.demi.pop_n(self.qd, count - self.input.len())?;
                    self.pop.insert(self.demi.operation(token)?)
                }
            };
            let popped = pop.await.and_then(|completion| completion.popped());
            self.pop = None;
            let sga = popped?;
            if sga.is_empty() {
                return Err(Error::EndOfStream);
            }
            sga.segments().iter().for_each(|segment| self.input.extend_from_slice(segment));
        }
        let rest = self.input.split_off(count);
        Ok(std::mem::replace(&mut self.input, rest))
    }

    pub(super) async fn cookie(&mut self) -> Result<Cookie, Fault> {
        let bytes = within(&self.demi.clone(), PATIENCE, self.take(COOKIE)).await;
        let bytes = bytes.map_err(Fault::of(Code::Cookie))?;
        Ok(bytes.try_into().expect("so many were asked for"))
    }

    /// The peer's next state, whenever it comes. What the peer gives up with is a fault.
    pub(super) async fn state(&mut self) -> Result<State, Fault> {
        let byte = self.take(1).await.map_err(Fault::of(Code::Closed))?[0];
        match State::from_byte(byte) {
            Some(State::ClientTerminate) => Err(Fault::new(Code::ClientGone, "it said so")),
            Some(State::ServerTerminate) => Err(Fault::new(Code::ServerGone, "it said so")),
            Some(State::AccessDenied) => Err(Fault::new(Code::Busy, "it denies access")),
            Some(State::ServerError) => {
                let numbers = within(&self.demi.clone(), PATIENCE, self.take(8)).await;
                let numbers = numbers.map_err(Fault::of(Code::Message))?;
                let number = i32::from_be_bytes([numbers[0], numbers[1], numbers[2], numbers[3]]);
                let text = format!("the server refuses with error {number}: {}", meaning(number));
                Err(Fault::new(Code::ServerGone, text))
            }
            Some(state) => Ok(state),
            None => Err(Fault::new(Code::Message, format!("{byte} names no state"))),
        }
    }

    /// The one state that can come now.
    pub(super) async fn expect(&mut self, expected: State, limit: Duration) -> Result<(), Fault> {
        let demi = self.demi.clone();
        match select(pin!(self.state()), pin!(demi.sleep_async(limit))).await {
            Either::Left((state, _)) => match state? {
                state if state == expected => Ok(()),
                other => Err(Fault::new(Code::Message, format!("{other:?} came instead of {expected:?}"))),
            },
            Either::Right(_) => {
                Err(Fault::new(Code::Idle, format!("{expected:?} did not come in {} s", limit.as_secs())))
            }
        }
    }

    /// JSON of bounded length, as `code` names it where it is none.
    pub(super) async fn json(&mut self, longest: usize, code: Code) -> Result<Value, Fault> {
        let demi = self.demi.clone();
        let length = within(&demi, PATIENCE, self.take(4)).await.map_err(Fault::of(code))?;
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if !(1..=longest).contains(&length) {
            return Err(Fault::new(code, format!("{length} bytes of JSON, where 1 to {longest} are taken")));
        }
        let text = within(&demi, PATIENCE, self.take(length)).await.map_err(Fault::of(code))?;
        serde_json::from_slice(&text).map_err(Fault::of(code))
    }

    /// Tells a client why there is no test for it, and waits a little until it has read that: closed with bytes that
    /// nobody has read, the connection might be reset before.
    pub(super) async fn refuse(mut self, fault: &Fault) {
        self.pop = None;
        let numbers = [fault.code as i32, 0].map(i32::to_be_bytes).concat();
        let said = self.send(&[&[State::ServerError.byte()][..], &numbers].concat());
        if said.and_then(|()| self.demi.shutdown(self.qd, Shutdown::Write)).is_err() {
            return;
        }
        let unheard = async {
            let mut left = MOST_UNHEARD;
            while let Ok(sga) = self.demi.pop_async(self.qd).await {
                left = left.saturating_sub(sga.len());
                if sga.is_empty() || left == 0 {
                    break;
                }
            }
            Ok(())
        };
        let _ = within(&self.demi, FAREWELL, unheard).await;
    }
}

/// What a future yields, unless that takes too long.
pub(super) async fn within<T, L: LibOs>(
    demi: &Demikernel<L>,
    limit: Duration,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match select(pin!(future), pin!(demi.sleep_async(limit))).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(Error::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_bytes_and_back() {
        for state in State::ALL {
            assert_eq!(State::from_byte(state.byte()), Some(state));
        }
        assert_eq!((State::AccessDenied.byte(), State::ServerError.byte()), (255, 254));
        for byte in [0, 3, 5, 17, 127, 128] {
            assert_eq!(State::from_byte(byte), None);
        }
    }
}
