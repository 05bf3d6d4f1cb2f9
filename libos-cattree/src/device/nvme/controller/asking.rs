//! What a controller is asked on its way up, one admin command after another, and what is made of its answers.
//!
//! Invariant: there is one admin command at a time, with identifier 0; nothing else is an answer.

use demi_api::time::Instant;

use super::super::command::{Entry, Identify, Status as Ended};
use super::super::identify::{self, Answer, LEN, LIST, Namespace};
use super::super::queue::Place;
use super::super::regs::{Hardware, VS};
use super::{ADMIN_TIMEOUT, ANSWER, Controller, Found, IO, IOVA, Phase};

/// Admin commands on the way up, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Controller,
    Namespaces,
    Namespace,
    QueueCount,
    CompletionQueue,
    SubmissionQueue,
}

impl<R: Hardware> Controller<R> {
    pub(super) fn ask(&mut self, step: Step, now: Instant) {
        let answer = IOVA + ANSWER as u64;
        let Place { submission, submission_entries, completion, completion_entries } = self.io_place;
        let entry = match step {
            Step::Controller => Entry::identify(Identify::Controller, 0, answer),
            Step::Namespaces => Entry::identify(Identify::ActiveNamespaces, 0, answer),
            Step::Namespace => Entry::identify(Identify::Namespace, self.namespace, answer),
            Step::QueueCount => Entry::number_of_queues(),
            Step::CompletionQueue => {
                Entry::create_completion_queue(IO, completion_entries, IOVA + completion as u64)
            }
            Step::SubmissionQueue => {
                Entry::create_submission_queue(IO, submission_entries, IOVA + submission as u64)
            }
        };
        self.send(entry);
        (self.phase, self.until) = (Phase::Asking(step), now + ADMIN_TIMEOUT);
    }

    /// There is one admin command at a time, so there is room.
    pub(super) fn send(&mut self, entry: Entry) {
        self.admin.push(&entry.with_id(0));
        self.admin.tell(&self.registers);
    }

    /// How the admin command that is under way ended.
    pub(super) fn answer(&mut self) -> Option<Ended> {
        let completed = self.admin.take()?;
        self.admin.give_all_back(&self.registers);
        // What belongs to no command of ours is no answer; the wait for one goes on, and is bounded.
        completed.ok().filter(|completed| completed.id == 0).map(|completed| completed.status)
    }

    pub(super) fn heed(&mut self, step: Step, status: Ended, now: Instant) {
        if !status.is_success() {
            return self.die(match step {
                Step::Namespace => format!("it knows no namespace {}: {status:?}", self.namespace),
                step => format!("it refused an admin command ({step:?}): {status:?}"),
            });
        }
        let next = match step {
            Step::Controller => self.heed_controller(),
            Step::Namespaces => self.heed_namespaces(),
            Step::Namespace => self.heed_namespace(),
            Step::QueueCount => Ok(Step::CompletionQueue),
            Step::CompletionQueue => Ok(Step::SubmissionQueue),
            Step::SubmissionQueue => {
                self.phase = Phase::Running;
                return;
            }
        };
        match next {
            Ok(step) => self.ask(step, now),
            Err(reason) => self.die(reason),
        }
    }

    fn heed_controller(&mut self) -> Result<Step, String> {
        let controller = identify::Controller::parse(&self.read_answer());
        if !controller.is_io {
            return Err("it is no I/O controller: it has no blocks to read and write".into());
        }
        if !controller.entry_sizes {
            return Err("it knows no queue entries of 64 and 16 bytes".into());
        }
        self.asked = Some(controller);
        // The list is younger than version 1.0 (§3.1.2).
        let has_list = self.registers.read(VS) >= 0x0001_0100;
        Ok(if has_list { Step::Namespaces } else { Step::Namespace })
    }

    fn heed_namespaces(&self) -> Result<Step, String> {
        let active = identify::active(&self.read_answer());
        // Of a list that is full the rest is not known.
        if active.contains(&self.namespace) || active.len() == LIST {
            return Ok(Step::Namespace);
        }
        let list = active.iter().take(16).map(u32::to_string).collect::<Vec<_>>().join(", ");
        let list = if list.is_empty() { "none".to_owned() } else { list };
        Err(format!("it has no namespace {}; there are: {list}", self.namespace))
    }

    fn heed_namespace(&mut self) -> Result<Step, String> {
        let namespace = Namespace::parse(&self.read_answer())
            .map_err(|reason| format!("namespace {} cannot be used: {reason}", self.namespace))?;
        let controller = self.asked.take().ok_or("it answered what it was not asked")?;
        let found = Found { controller, namespace };
        match &self.found {
            Some(before) if *before != found => Err("after a reset it is not what it was before".into()),
            _ => {
                self.found = Some(found);
                Ok(Step::QueueCount)
            }
        }
    }

    fn read_answer(&self) -> Answer {
        let mut answer = [0; LEN];
        for (at, word) in answer.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&self.memory.read64(ANSWER + 8 * at).to_le_bytes());
        }
        answer
    }
}
