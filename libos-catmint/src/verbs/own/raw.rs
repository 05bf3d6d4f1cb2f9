//! A queue pair that is connected to itself, without a connection manager.
//!
//! Invariant: it is destroyed once, before what it hangs on.

use std::ffi::c_int;
use std::ptr::NonNull;
use std::rc::Rc;

use rdma_sys as ib;
use rustix::io::Result;

use crate::verbs::cm::raw::Shape;
use crate::verbs::completions::raw::CompletionQueue;
use crate::verbs::domain::raw::{Domain, PORT, Plain, checked, last, port};

pub(super) struct SelfConnected {
    qp: NonNull<ib::ibv_qp>,
    _domain: Rc<Domain>,
    _completions: Rc<CompletionQueue>,
}

impl SelfConnected {
    pub(super) fn new(
        domain: &Rc<Domain>,
        completions: &Rc<CompletionQueue>,
        depth: u32,
    ) -> Result<SelfConnected> {
        let mut attributes = Shape { depth, segments: 1, inline: 0 }.attributes(completions, None);
        attributes.cap.max_recv_wr = 1;
        attributes.cap.max_recv_sge = 1;
        // SAFETY: domain and queue live, and are kept for as long as the queue pair.
        let qp = unsafe { ib::ibv_create_qp(domain.pd.as_ptr(), &mut attributes) };
        let qp = NonNull::new(qp).ok_or_else(last)?;
        let made = SelfConnected { qp, _domain: Rc::clone(domain), _completions: Rc::clone(completions) };
        made.connect(domain)?;
        Ok(made)
    }

    fn connect(&self, domain: &Domain) -> Result<()> {
        use ib::{ibv_qp_attr_mask as with, ibv_qp_state as state};
        let mut attributes = ib::ibv_qp_attr::zeroed();
        attributes.qp_state = state::IBV_QPS_INIT;
        attributes.port_num = PORT;
        let access =
            ib::ibv_access_flags::IBV_ACCESS_REMOTE_ATOMIC | ib::ibv_access_flags::IBV_ACCESS_REMOTE_READ;
        attributes.qp_access_flags = access.0;
        self.modify(
            attributes,
            with::IBV_QP_STATE | with::IBV_QP_PKEY_INDEX | with::IBV_QP_PORT | with::IBV_QP_ACCESS_FLAGS,
        )?;
        let here = port(domain.context)?;
        let mut attributes = ib::ibv_qp_attr::zeroed();
        attributes.qp_state = state::IBV_QPS_RTR;
        attributes.path_mtu = ib::ibv_mtu::IBV_MTU_256;
        // SAFETY: the queue pair lives.
        attributes.dest_qp_num = unsafe { (*self.qp.as_ptr()).qp_num };
        attributes.max_dest_rd_atomic = 1;
        attributes.min_rnr_timer = 1;
        attributes.ah_attr.port_num = PORT;
        attributes.ah_attr.dlid = here.lid;
        let mut indices = 0..here.gid_tbl_len.min(255);
        if let Some((index, gid)) = indices.find_map(|index| Some((index, domain.gid(index)?))) {
            attributes.ah_attr.is_global = 1;
            attributes.ah_attr.grh.sgid_index = index as u8;
            attributes.ah_attr.grh.dgid = gid;
            attributes.ah_attr.grh.hop_limit = 1;
        }
        self.modify(
            attributes,
            with::IBV_QP_STATE
                | with::IBV_QP_AV
                | with::IBV_QP_PATH_MTU
                | with::IBV_QP_DEST_QPN
                | with::IBV_QP_RQ_PSN
                | with::IBV_QP_MAX_DEST_RD_ATOMIC
                | with::IBV_QP_MIN_RNR_TIMER,
        )?;
        let mut attributes = ib::ibv_qp_attr::zeroed();
        attributes.qp_state = state::IBV_QPS_RTS;
        // 67 ms, seven times.
        attributes.timeout = 14;
        attributes.retry_cnt = 7;
        attributes.rnr_retry = 7;
        attributes.max_rd_atomic = 1;
        self.modify(
            attributes,
            with::IBV_QP_STATE
                | with::IBV_QP_TIMEOUT
                | with::IBV_QP_RETRY_CNT
                | with::IBV_QP_RNR_RETRY
                | with::IBV_QP_SQ_PSN
                | with::IBV_QP_MAX_QP_RD_ATOMIC,
        )
    }

    fn modify(&self, mut attributes: ib::ibv_qp_attr, which: ib::ibv_qp_attr_mask) -> Result<()> {
        // SAFETY: the queue pair lives; the attributes are read during the call.
        checked(unsafe { ib::ibv_modify_qp(self.qp.as_ptr(), &mut attributes, which.0 as c_int) })
    }

    pub(super) fn as_ptr(&self) -> NonNull<ib::ibv_qp> {
        self.qp
    }
}

impl Drop for SelfConnected {
    fn drop(&mut self) {
        // SAFETY: destroyed once.
        unsafe { ib::ibv_destroy_qp(self.qp.as_ptr()) };
    }
}
