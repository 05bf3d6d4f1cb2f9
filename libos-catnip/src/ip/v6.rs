//! IPv6 packets down to the transport header.

use std::net::Ipv6Addr;

use demi_api::error::Error;
use demi_api::libos::Cx;

use super::v4::Link;
use super::{Datagram, Ip, Received, Unreachable};
use crate::device::Frame;

impl Ip {
    pub(super) fn receive_v6(&mut self, _cx: &mut Cx<'_>, _frame: Frame, _link: Link) -> Received {
        self.counters.foreign += 1;
        Received::Nothing
    }

    pub(super) fn solicit_v6(&mut self, _cx: &mut Cx<'_>, _addr: Ipv6Addr, _known: Option<[u8; 6]>) {}

    pub(super) fn reject_v6(
        &mut self,
        _cx: &mut Cx<'_>,
        _datagram: &Datagram,
        _what: Unreachable,
    ) -> Result<(), Error> {
        Ok(())
    }
}
