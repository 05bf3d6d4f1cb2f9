//! Visits: what there is to do for a queue, or for a direction of a connection, is done when it is looked at.
//!
//! Invariant: a queue to which something happened is on the agenda until it is visited. A visit too many does nothing.

use demi_api::libos::Cx;
use demi_api::{Done, Error, QDesc, QToken};

use super::agenda::Work;
use super::pipe::PipeId;
use super::{Loopback, State};

/// What a visit is given: where to post, and whose result is to be returned instead.
pub(super) struct Turn<'a, 'c> {
    pub(super) cx: &'a mut Cx<'c>,
    pub(super) caller: Option<QToken>,
    pub(super) answer: Option<Result<Done, Error>>,
}

impl Turn<'_, '_> {
    pub(super) fn post(&mut self, token: QToken, result: Result<Done, Error>) {
        if self.caller == Some(token) {
            self.answer = Some(result);
        } else {
            self.cx.done.post(token, result);
        }
    }
}

impl<const TURNS: u64> Loopback<TURNS> {
    /// Does what there is to do for a queue or a direction. Harmless where there is nothing, or nothing any more.
    pub(super) fn visit(&mut self, turn: &mut Turn<'_, '_>, work: Work) {
        self.visits += 1;
        let qd = match work {
            Work::Pipe(id) => return self.visit_pipe(turn, id),
            Work::Queue(qd) => qd,
        };
        let Ok(queue) = self.queues.get_mut(qd) else { return };
        queue.scheduled = false;
        match queue.state {
            State::Listener(_) => self.visit_listener(turn, qd),
            State::Connecting(_) => self.visit_connecting(turn, qd),
            State::Datagram(_) => self.visit_datagram(turn, qd),
            State::Log(_) => self.visit_log(turn, qd),
            State::Fresh | State::Stream(_) => {}
        }
    }

    pub(super) fn schedule(&mut self, cx: &mut Cx<'_>, work: Work) {
        match work {
            Work::Pipe(id) => self.schedule_pipe(cx, id),
            Work::Queue(qd) => self.schedule_queue(cx, qd),
        }
    }

    pub(super) fn schedule_queue(&mut self, cx: &mut Cx<'_>, qd: QDesc) {
        if let Ok(queue) = self.queues.get_mut(qd)
            && !std::mem::replace(&mut queue.scheduled, true)
        {
            self.agenda.add(delay::<TURNS>(cx), Work::Queue(qd));
        }
    }

    pub(super) fn schedule_pipe(&mut self, cx: &mut Cx<'_>, id: PipeId) {
        if self.pipes.begin_schedule(id) {
            self.agenda.add(delay::<TURNS>(cx), Work::Pipe(id));
        }
    }

    /// What a call changed takes effect before it returns, if that is the flavour.
    pub(super) fn settle(&mut self, cx: &mut Cx<'_>) {
        if TURNS == 0 {
            self.drain(&mut Turn { cx, caller: None, answer: None });
        }
    }

    pub(super) fn drain(&mut self, turn: &mut Turn<'_, '_>) {
        while let Some(work) = self.agenda.take_due() {
            self.visit(turn, work);
        }
    }
}

/// How many turns from now an effect shows.
fn delay<const TURNS: u64>(cx: &mut Cx<'_>) -> u64 {
    if TURNS > 1 { cx.rng.u64(1..=TURNS) } else { TURNS }
}
