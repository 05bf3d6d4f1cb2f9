//! What this instance and those that share its interface hand over to each other.

use demi_api::libos::Cx;
use demi_api::sga::SgArray;

use super::Catnip;
use crate::device::{DeviceCx, Frame};
use crate::ip::{About, Cast, Received};
use crate::siblings::{Message, Round, is_advert, messages};
use crate::tcp;

/// Packets of messages that are taken up in one turn, each of which is what a sibling tells in one.
const PACKETS: usize = 4;

impl Catnip {
    /// Passes a packet on that this instance has no use for, or forgets it. False: it is this instance's to receive or to
    /// refuse.
    #[cold]
    #[inline(never)]
    pub(super) fn pass_on(
        &mut self,
        cx: &Cx<'_>,
        round: Option<Round>,
        about: &About,
        data: &SgArray,
    ) -> bool {
        let Some(siblings) = &mut self.siblings else { return false };
        let keeps = match about.protocol {
            _ if about.cast != Cast::Unicast => true,
            tcp::PROTOCOL => self.tcp.has_use_for(cx.now, about, data),
            _ => self.udp.has_use_for(about, data),
        };
        if keeps || round.is_some_and(|round| round.aside) {
            return !keeps;
        }
        siblings.pass_on(cx.now, round, about, data)
    }

    /// Tells siblings what concerns them of a frame from the device.
    pub(super) fn tell_of_frame(&mut self, frame: &Frame) {
        if let Some(siblings) = &mut self.siblings
            && frame.data.segments().first().is_some_and(|head| is_advert(head))
        {
            siblings.tell_advert(&frame.data);
        }
    }

    /// Tells siblings of an error from the network.
    pub(super) fn tell_of_problem(&mut self, received: &Received) {
        if let Some(siblings) = &mut self.siblings
            && let Received::Problem(problem) = received
        {
            siblings.tell_problem(problem);
        }
    }

    /// Takes up what siblings have handed over, and sends them what this turn brought for them. Returns how much there was.
    #[inline(never)]
    pub(super) fn serve_siblings(&mut self, cx: &mut Cx<'_>) -> usize {
        let Some(siblings) = &mut self.siblings else { return 0 };
        let mut done = 0;
        if siblings.is_due(cx.now) {
            siblings.look(cx.now);
            while done < PACKETS
                && let Some((room, len)) =
                    self.siblings.as_mut().and_then(|siblings| siblings.receive(cx.now))
            {
                done += 1;
                for message in messages(&room[..len]) {
                    let taken = message.is_ok_and(|message| self.take_up(cx, message));
                    if !taken && let Some(siblings) = &mut self.siblings {
                        siblings.refuse();
                    }
                }
                if let Some(siblings) = &mut self.siblings {
                    siblings.recycle(room);
                }
            }
        }
        if let Some(siblings) = &mut self.siblings {
            siblings.flush(cx.now);
            if let Some(queues) = siblings.wanted(cx.now) {
                let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
                if !self.device.serve(&device_cx, &queues, &mut self.inbox) {
                    siblings.try_again(cx.now);
                }
                done += self.take_in(cx);
            }
        }
        done
    }

    /// False: it makes no sense here, or there is no memory for it.
    fn take_up(&mut self, cx: &mut Cx<'_>, message: Message<'_>) -> bool {
        match message {
            Message::Hello { .. } => false,
            Message::Datagram { round, about, data } => {
                if !self.ip.is_local(about.local) {
                    return false;
                }
                let Ok(copy) = cx.heap.copy_from(data) else { return false };
                let mut data = copy.into();
                if !self.pass_on(cx, Some(round), &about, &data) {
                    self.deliver_here(cx, about, &mut data);
                }
                true
            }
            Message::Problem(problem) => {
                let ours = self.ip.is_local(problem.local);
                if ours {
                    self.dispatch(cx, Received::Problem(problem));
                }
                ours
            }
            Message::Advert(frame) => {
                let Ok(copy) = cx.heap.copy_from(frame) else { return false };
                let received = self.ip.receive(cx, Frame::new(copy.into()));
                self.dispatch(cx, received);
                true
            }
        }
    }
}
