//! Waiting, and what C is told of what is done.
//!
//! Invariant: a result that cannot be handed out for want of memory is not lost. The wait returns `ENOMEM`, and the
//! token is as if it had not been waited for.

use std::ffi::c_int;
use std::time::Duration;

use demi_api::{Completion, Done, Error, LibOs, Position, QDesc, QToken};

use crate::addr;
use crate::errno::Errno;
use crate::instance::Instance;
use crate::raw::{Out, Outs};
use crate::types::{
    Accepted, Array, OPC_ACCEPT, OPC_CONNECT, OPC_FAILED, OPC_FETCHED, OPC_MOVED, OPC_POP, OPC_PUSH, QResult,
};

/// Most results that one call takes from the instance at a time.
const BATCH: usize = 256;

/// A time limit: NULL is none.
pub(crate) fn timeout(spec: Option<&libc::timespec>) -> Result<Option<Duration>, Errno> {
    let Some(spec) = spec else { return Ok(None) };
    match (u64::try_from(spec.tv_sec), u32::try_from(spec.tv_nsec)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(Errno(libc::EINVAL)),
    }
}

impl<L: LibOs + 'static> Instance<L> {
    /// The end of a push that was done on the spot, if its bytes are not to be looked at.
    #[inline(always)]
    pub(crate) fn take_pushed(&self, token: u64) -> Option<(QDesc, Position)> {
        if self.watch.is_some() {
            return None;
        }
        self.demi.take_pushed(QToken::from_raw(token))
    }

    #[inline(always)]
    pub(crate) fn wait(
        &self,
        result: Out<'_, QResult>,
        token: u64,
        timeout: Option<Duration>,
    ) -> Result<(), Errno> {
        let token = QToken::from_raw(token);
        if self.has_unclaimed.get()
            && let Some(mut completion) = self.unclaimed_of(token)
        {
            return self.deliver_any(&mut completion, result);
        }
        match self.demi.wait_in_place(token, timeout) {
            Ok(mut arrived) => self.deliver(arrived.completion(), result),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn wait_any(
        &self,
        result: Out<'_, QResult>,
        offset: Out<'_, c_int>,
        tokens: &[QToken],
        timeout: Option<Duration>,
    ) -> Result<(), Errno> {
        let (place, mut completion) =
            match self.unclaimed_where(|completion| tokens.contains(&completion.token)) {
                Some(completion) => {
                    let place = tokens.iter().position(|token| *token == completion.token);
                    (place.unwrap_or(0), completion)
                }
                None => self.demi.wait_any(tokens, timeout)?,
            };
        self.deliver_any(&mut completion, result)?;
        offset.set(place as c_int);
        Ok(())
    }

    pub(crate) fn wait_next_n(
        &self,
        mut results: Outs<'_, QResult>,
        count: Out<'_, c_int>,
        timeout: Option<Duration>,
    ) -> Result<(), Errno> {
        let mut done = 0;
        let mut taken = self.results.take();
        taken.clear();
        while done < results.len()
            && let Some(completion) = self.unclaimed_where(|_| true)
        {
            taken.push(completion);
            done += 1;
        }
        let waited = match done {
            // What is unclaimed is there already: what else is done is taken by the next call.
            0 => self.demi.wait_next_n(&mut taken, results.len().min(BATCH), timeout),
            _ => Ok(done),
        };
        let mut delivered = 0;
        let mut refused = None;
        for mut completion in taken.drain(..) {
            match refused {
                None => match self.deliver_any(&mut completion, results.at(delivered)) {
                    Ok(()) => delivered += 1,
                    Err(errno) => refused = Some(errno),
                },
                Some(_) => self.put_back(completion),
            }
        }
        self.results.set(taken);
        waited?;
        if let (0, Some(errno)) = (delivered, refused) {
            return Err(errno);
        }
        count.set(delivered as c_int);
        Ok(())
    }

    pub(crate) fn wait_all(
        &self,
        mut results: Outs<'_, QResult>,
        tokens: &[QToken],
        timeout: Option<Duration>,
    ) -> Result<(), Errno> {
        let mut taken = self.results.take();
        taken.clear();
        let waited = if self.has_unclaimed.get() {
            self.wait_rest(tokens, &mut taken, timeout)
        } else {
            self.demi.wait_all(tokens, &mut taken, timeout)
        };
        // All are made to fit before the first is handed out, so that it is all of them or none.
        let fit = |()| taken.iter_mut().try_for_each(|completion| self.fit(completion));
        let mut outcome = waited.map_err(Errno::from).and_then(fit);
        for (place, mut completion) in taken.drain(..).enumerate() {
            match outcome {
                Ok(()) => outcome = self.deliver_any(&mut completion, results.at(place)),
                Err(_) => self.put_back(completion),
            }
        }
        self.results.set(taken);
        outcome
    }

    /// Brings the array that the program is handed with a result into as many segments as it may have.
    fn fit(&self, completion: &mut Completion) -> Result<(), Errno> {
        let qd = completion.qd;
        match &mut completion.result {
            Ok(Done::Popped(sga)) => self.gather(sga, self.limit_of(Some(qd))),
            Ok(Done::Batch(elements)) => match elements.first_mut() {
                Some(first) => self.gather(first, self.limit_of(Some(qd))),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// As `Demikernel::wait_all`, where some of the results may be among the unclaimed.
    #[cold]
    fn wait_rest(
        &self,
        tokens: &[QToken],
        taken: &mut Vec<Completion>,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        let is_unclaimed = |token: &QToken| self.unclaimed.borrow().iter().any(|it| it.token == *token);
        let rest: Vec<QToken> = tokens.iter().copied().filter(|token| !is_unclaimed(token)).collect();
        let mut waited = Vec::new();
        if !rest.is_empty() {
            self.demi.wait_all(&rest, &mut waited, timeout)?;
        }
        let mut waited = waited.into_iter();
        for token in tokens {
            // A token that stands twice is found once: the second time there is nothing left.
            let found = self.unclaimed_where(|it| it.token == *token).or_else(|| waited.next());
            taken.push(found.ok_or(Error::DuplicateToken)?);
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn unclaimed_of(&self, token: QToken) -> Option<Completion> {
        self.unclaimed_where(|completion| completion.token == token)
    }

    /// A result that could not be handed out before.
    #[inline]
    fn unclaimed_where(&self, matches: impl FnMut(&Completion) -> bool) -> Option<Completion> {
        if !self.has_unclaimed.get() {
            return None;
        }
        let mut unclaimed = self.unclaimed.borrow_mut();
        let place = unclaimed.iter().position(matches)?;
        let completion = unclaimed.remove(place);
        self.has_unclaimed.set(!unclaimed.is_empty());
        completion
    }

    #[cold]
    fn put_back(&self, completion: Completion) {
        self.unclaimed.borrow_mut().push_back(completion);
        self.has_unclaimed.set(true);
    }

    /// Tells the program of a result, and leaves nothing in it that would have to be dropped. Without the memory for that,
    /// the result is put back.
    #[inline(always)]
    fn deliver(&self, completion: &mut Completion, mut out: Out<'_, QResult>) -> Result<(), Errno> {
        match &mut completion.result {
            Ok(Done::Pushed(position)) => {
                let position = position.0 as i64;
                out.tell_of(OPC_PUSH, completion, position);
                if self.watch.is_some() {
                    self.look_at(completion, out);
                }
                Ok(())
            }
            Ok(Done::Popped(sga)) => match self.hand_out(sga, Some(completion.qd), out.array()) {
                Ok(()) => {
                    out.tell_of(OPC_POP, completion, 0);
                    Ok(())
                }
                Err(errno) => {
                    self.put_back(taken(completion));
                    Err(errno)
                }
            },
            _ => self.deliver_rarely(taken(completion), out),
        }
    }

    /// The same, where it need not be as fast.
    #[inline(never)]
    fn deliver_any(&self, completion: &mut Completion, out: Out<'_, QResult>) -> Result<(), Errno> {
        self.deliver(completion, out)
    }

    #[inline(never)]
    fn deliver_rarely(&self, mut completion: Completion, mut out: Out<'_, QResult>) -> Result<(), Errno> {
        let done = std::mem::replace(&mut completion.result, Ok(Done::Connected));
        match done {
            Ok(Done::Accepted { qd: connection, peer }) => {
                let addr = addr::short(&peer);
                out.tell_of(OPC_ACCEPT, &completion, 0);
                out.accepted().set(Accepted { qd: connection.raw() as c_int, addr });
                self.inherit_limit(completion.qd, connection);
            }
            Ok(Done::Batch(elements)) => {
                let count = elements.len();
                let mut elements = elements.into_iter();
                let mut first = elements.next().unwrap_or_default();
                if let Err(errno) = self.hand_out(&mut first, Some(completion.qd), out.array()) {
                    let all = [first].into_iter().chain(elements).collect();
                    self.put_back(Completion { result: Ok(Done::Batch(all)), ..completion });
                    return Err(errno);
                }
                out.tell_of(OPC_POP, &completion, count as i64);
                if count > 1 {
                    self.batches.borrow_mut().insert(completion.token.raw(), elements.collect());
                }
            }
            Ok(Done::Connected | Done::Flushed) => out.tell_of(OPC_CONNECT, &completion, 0),
            Ok(Done::Moved(count)) => out.tell_of(OPC_MOVED, &completion, count as i64),
            Ok(Done::Fetched(word)) => {
                out.tell_of(OPC_FETCHED, &completion, 0);
                out.word().set(word);
            }
            Ok(Done::Popped(_) | Done::Pushed(_)) => unreachable!("told of before"),
            Err(error) => {
                out.tell_of(OPC_FAILED, &completion, Errno::from(error).0.into());
                self.look_at(&completion, out);
            }
        }
        Ok(())
    }

    /// Fails a push whose bytes were written to meanwhile.
    #[cold]
    #[inline(never)]
    fn look_at(&self, completion: &Completion, mut out: Out<'_, QResult>) {
        if let Some(watch) = &self.watch
            && !watch.borrow_mut().completed(completion.token)
        {
            out.tell_of(OPC_FAILED, completion, libc::EFAULT.into());
        }
    }

    /// The next element of a sized pop whose first one came with its result.
    pub(crate) fn next_element(&self, out: Out<'_, Array>, token: u64) -> Result<(), Errno> {
        let mut batches = self.batches.borrow_mut();
        let Some(rest) = batches.get_mut(&token) else { return Err(Errno(libc::ENOENT)) };
        let mut next = rest.pop_front().unwrap_or_default();
        let outcome = self.hand_out(&mut next, None, out);
        if outcome.is_err() {
            rest.push_front(next);
        }
        if rest.is_empty() {
            batches.remove(&token);
        }
        outcome
    }

    /// Pushes, and waits until that is done.
    pub(crate) fn blocking_push(
        &self,
        result: Out<'_, QResult>,
        qd: c_int,
        array: &Array,
    ) -> Result<(), Errno> {
        let mut token = 0;
        self.push(Out::from(&mut token), qd, array)?;
        self.wait(result, token, None)
    }

    /// Pops, and waits until that is done.
    pub(crate) fn blocking_pop(&self, result: Out<'_, QResult>, qd: c_int) -> Result<(), Errno> {
        let mut token = 0;
        self.pop(Out::from(&mut token), qd)?;
        self.wait(result, token, None)
    }
}

/// A result by value; what stays has nothing to drop.
fn taken(completion: &mut Completion) -> Completion {
    let result = std::mem::replace(&mut completion.result, Err(Error::Cancelled));
    Completion { token: completion.token, qd: completion.qd, result }
}
