//! One connection: a head, then its body, then the answer, then the next head.

use std::collections::VecDeque;

use demi_api::{Buf, Demikernel, Error, LibOs, QDesc, QToken, SgArray};
use sha2::{Digest, Sha256};

use super::content::{Content, Entity, hexadecimal};
use super::request::{self, LONGEST, Method, Refusal, Request};

/// Bytes that are pushed and not acknowledged before no more are pushed and nothing is popped.
const MOST_UNSENT: usize = 512 << 10;

pub(super) struct Client<'a> {
    qd: QDesc,
    pop: Option<QToken>,
    /// In the order in which they will complete, with their sizes.
    pushes: VecDeque<(QToken, usize)>,
    unsent: usize,
    /// What was popped and not looked at yet.
    input: SgArray,
    stage: Stage<'a>,
}

enum Stage<'a> {
    /// What is here of a head.
    Head(Vec<u8>),
    /// A body on its way in.
    Upload { left: u64, len: u64, hash: Box<Sha256>, keep_alive: bool },
    /// A body on its way out.
    Download { entity: &'a Entity, at: u64, keep_alive: bool },
    /// Close when all is sent.
    Leaving,
}

/// Whether to go on at once.
enum Flow {
    On,
    Wait,
}

impl<'a> Client<'a> {
    pub(super) fn new<L: LibOs>(demi: &Demikernel<L>, qd: QDesc) -> Result<Client<'a>, Error> {
        Ok(Client {
            qd,
            pop: Some(demi.pop(qd)?),
            pushes: VecDeque::new(),
            unsent: 0,
            input: SgArray::new(),
            stage: Stage::Head(Vec::new()),
        })
    }

    /// Whether the token is that of the outstanding pop; it is not outstanding any more then.
    pub(super) fn ends_pop(&mut self, token: QToken) -> bool {
        let is_pop = self.pop == Some(token);
        if is_pop {
            self.pop = None;
        }
        is_pop
    }

    /// Takes note of a finished push; false if it is none of this client's.
    pub(super) fn ends_push(&mut self, token: QToken) -> bool {
        match self.pushes.front() {
            Some((first, bytes)) if *first == token => {
                self.unsent -= bytes;
                self.pushes.pop_front();
                true
            }
            _ => false,
        }
    }

    /// Takes in what a pop has yielded. The end of the stream within a request ends the connection; what was asked before
    /// it is answered.
    pub(super) fn received(&mut self, sga: SgArray) {
        if sga.is_empty() {
            self.stage = Stage::Leaving;
        }
        self.input = sga;
    }

    /// Whether all is done that there was to do.
    pub(super) fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::Leaving) && self.pushes.is_empty()
    }

    /// Does what can be done now, and asks for more. An error: the connection is of no use any more.
    pub(super) fn advance<L: LibOs>(
        &mut self,
        demi: &Demikernel<L>,
        content: &'a Content,
        answered: &mut u64,
    ) -> Result<(), Error> {
        while self.unsent < MOST_UNSENT {
            let flow = match &self.stage {
                Stage::Head(_) => self.read_head(demi, content, answered)?,
                Stage::Upload { .. } => self.take(demi, answered)?,
                Stage::Download { .. } => self.send_piece(demi)?,
                Stage::Leaving => return Ok(()),
            };
            if let Flow::Wait = flow {
                if self.pop.is_none() {
                    self.pop = Some(demi.pop(self.qd)?);
                }
                return Ok(());
            }
        }
        Ok(())
    }

    fn read_head<L: LibOs>(
        &mut self,
        demi: &Demikernel<L>,
        content: &'a Content,
        answered: &mut u64,
    ) -> Result<Flow, Error> {
        let Stage::Head(head) = &mut self.stage else { return Ok(Flow::On) };
        if self.input.is_empty() {
            return Ok(Flow::Wait);
        }
        let before = head.len();
        head.resize(LONGEST.min(before + self.input.len()), 0);
        let taken = self.input.copy_to(&mut head[before..]);
        // A head ends with an empty line: only then is it worth reading, however small the parts are that it comes in.
        let end = &head[before.saturating_sub(3)..];
        let ended =
            end.windows(2).any(|two| two == b"\n\n") || end.windows(3).any(|three| three == b"\n\r\n");
        let parsed = match ended {
            true => request::parse(head),
            false if head.len() == LONGEST => Err(request::TOO_LARGE),
            false => Ok(None),
        };
        let (len, request) = match parsed {
            Ok(Some(found)) => found,
            // Bytes that end an empty line before the request are no request yet: RFC 9112 §2.2.
            Ok(None) if head.len() < LONGEST => {
                self.input.advance(taken);
                return Ok(Flow::On);
            }
            Ok(None) => return self.refuse(demi, request::TOO_LARGE),
            Err(refusal) => return self.refuse(demi, refusal),
        };
        // What an earlier part held was not the end.
        self.input.advance(len.saturating_sub(before));
        self.begin(demi, content, &request, answered)?;
        Ok(Flow::On)
    }

    fn begin<L: LibOs>(
        &mut self,
        demi: &Demikernel<L>,
        content: &'a Content,
        request: &Request,
        answered: &mut u64,
    ) -> Result<(), Error> {
        let keep_alive = request.keep_alive;
        if request.method == Method::Put {
            if request.expects && request.body > 0 {
                self.push(demi, demi.copy_from(b"HTTP/1.1 100 Continue\r\n\r\n")?)?;
            }
            let (left, len) = (request.body, request.body);
            self.stage = Stage::Upload { left, len, hash: Box::default(), keep_alive };
            return Ok(());
        }
        if request.body > 0 {
            // It would have to be read to find the next request.
            return self.refuse(demi, request::BAD).map(drop);
        }
        *answered += 1;
        let Some(entity) = content.find(&request.path) else {
            let body = if request.method == Method::Head { "" } else { "not found\n" };
            return self.answer(demi, (404, "Not Found"), "", 10, body, keep_alive);
        };
        let tag = format!("ETag: \"{}\"\r\n", entity.sha256);
        self.answer(demi, (200, "OK"), &tag, entity.len, "", keep_alive)?;
        if request.method == Method::Get {
            self.stage = Stage::Download { entity, at: 0, keep_alive };
        }
        Ok(())
    }

    fn take<L: LibOs>(&mut self, demi: &Demikernel<L>, answered: &mut u64) -> Result<Flow, Error> {
        let Stage::Upload { left, len, hash, keep_alive } = &mut self.stage else { return Ok(Flow::On) };
        if *left > 0 && self.input.is_empty() {
            return Ok(Flow::Wait);
        }
        let count = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
        let body = self.input.split_to(count);
        body.segments().iter().for_each(|segment| hash.update(&segment[..]));
        *left -= count as u64;
        if *left > 0 {
            return Ok(Flow::On);
        }
        let (hash, len, keep_alive) = (std::mem::take(&mut **hash), *len, *keep_alive);
        let body = format!("{}  {len}\n", hexadecimal(hash));
        *answered += 1;
        self.answer(demi, (200, "OK"), "", body.len() as u64, &body, keep_alive)?;
        Ok(Flow::On)
    }

    fn send_piece<L: LibOs>(&mut self, demi: &Demikernel<L>) -> Result<Flow, Error> {
        let Stage::Download { entity, at, keep_alive } = &mut self.stage else { return Ok(Flow::On) };
        if *at == entity.len {
            self.stage = after(*keep_alive);
            return Ok(Flow::On);
        }
        let piece: Buf = entity.piece(*at);
        *at += piece.len() as u64;
        self.push(demi, piece.into())?;
        Ok(Flow::On)
    }

    /// Says that there is nothing for this request, nor for any after it.
    fn refuse<L: LibOs>(&mut self, demi: &Demikernel<L>, (status, what): Refusal) -> Result<Flow, Error> {
        let body = format!("{what}\n");
        let allow = if status == 405 { "Allow: GET, HEAD, PUT, POST\r\n" } else { "" };
        self.answer(demi, (status, what), allow, body.len() as u64, &body, false)?;
        Ok(Flow::On)
    }

    /// Pushes the head of an answer, and `body` with it.
    fn answer<L: LibOs>(
        &mut self,
        demi: &Demikernel<L>,
        (status, what): Refusal,
        more: &str,
        len: u64,
        body: &str,
        keep_alive: bool,
    ) -> Result<(), Error> {
        let close = if keep_alive { "" } else { "Connection: close\r\n" };
        let text = format!("HTTP/1.1 {status} {what}\r\nContent-Length: {len}\r\n{more}{close}\r\n{body}");
        self.stage = after(keep_alive);
        self.push(demi, demi.copy_from(text.as_bytes())?)
    }

    fn push<L: LibOs>(&mut self, demi: &Demikernel<L>, sga: SgArray) -> Result<(), Error> {
        let len = sga.len();
        self.pushes.push_back((demi.push(self.qd, sga)?, len));
        self.unsent += len;
        Ok(())
    }
}

fn after<'a>(keep_alive: bool) -> Stage<'a> {
    if keep_alive { Stage::Head(Vec::new()) } else { Stage::Leaving }
}
