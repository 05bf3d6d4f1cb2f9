//! What INFO tells: the names that Redis' tools know where there is such a thing, and the instance's own counters.

use std::fmt::Write;
use std::time::Duration;

use demi_api::{Counters, Demikernel, LibOs};

use super::log::Log;
use super::store::Store;

/// What only the server knows.
pub(super) trait Server {
    fn facts(&self) -> Facts;
}

pub(super) struct Facts {
    pub(super) libos: &'static str,
    pub(super) port: u16,
    pub(super) clients: usize,
    pub(super) accepted: u64,
    pub(super) commands: u64,
    pub(super) counters: Option<Counters>,
    pub(super) uptime: Duration,
    pub(super) compactions: u64,
}

/// The facts at the begin of a batch of results.
pub(super) struct Snapshot<'a, L: LibOs> {
    pub(super) demi: &'a Demikernel<L>,
    pub(super) port: u16,
    pub(super) clients: usize,
    pub(super) accepted: u64,
    pub(super) commands: u64,
    pub(super) uptime: Duration,
    pub(super) log: Option<&'a Log>,
}

impl<L: LibOs> Server for Snapshot<'_, L> {
    fn facts(&self) -> Facts {
        Facts {
            libos: L::NAME,
            port: self.port,
            clients: self.clients,
            accepted: self.accepted,
            commands: self.commands,
            counters: self.demi.counters().ok(),
            uptime: self.uptime,
            compactions: self.log.map_or(0, |log| log.compactions),
        }
    }
}

/// The sections asked for, or all.
pub(super) fn text(server: &dyn Server, store: &Store, sections: &[String]) -> String {
    let facts = server.facts();
    let all =
        sections.is_empty() || sections.iter().any(|it| matches!(&it[..], "all" | "default" | "everything"));
    let mut text = String::with_capacity(2048);
    let mut section = |name: &str, lines: &dyn Fn(&mut String) -> std::fmt::Result| {
        if all || sections.iter().any(|it| it.eq_ignore_ascii_case(name)) {
            let separator = if text.is_empty() { "" } else { "\r\n" };
            let _ = write!(text, "{separator}# {name}\r\n");
            let _ = lines(&mut text);
        }
    };
    section("Server", &|text| {
        write!(
            text,
            "redis_version:7.0.0\r\nserver_name:demi-kv\r\nserver_version:{}\r\n",
            env!("CARGO_PKG_VERSION")
        )?;
        write!(
            text,
            "libos:{}\r\nprocess_id:{}\r\ntcp_port:{}\r\n",
            facts.libos,
            std::process::id(),
            facts.port
        )?;
        write!(text, "uptime_in_seconds:{}\r\n", facts.uptime.as_secs())
    });
    section("Clients", &|text| write!(text, "connected_clients:{}\r\n", facts.clients));
    section("Memory", &|text| {
        let Some(heap) = facts.counters.as_ref().map(|counters| &counters.heap) else { return Ok(()) };
        write!(text, "used_memory:{}\r\nused_memory_peak:{}\r\n", heap.bytes_live, heap.bytes_high_water)?;
        write!(text, "maxmemory:{}\r\nmaxmemory_policy:noeviction\r\n", store.limit())?;
        write!(text, "heap_size:{}\r\nheap_pages:{:?}\r\n", heap.region_size, heap.pages)?;
        write!(text, "heap_locked:{}\r\nheap_objects:{}\r\n", u8::from(heap.locked), heap.objects_live)?;
        write!(text, "heap_superblocks:{}\r\n", heap.superblocks)?;
        write!(text, "heap_superblocks_free:{}\r\n", heap.superblocks_free)?;
        write!(text, "heap_foreign_copies:{}\r\n", heap.foreign_copies)
    });
    section("Persistence", &|text| {
        let Some(journal) = &store.journal else { return write!(text, "aof_enabled:0\r\n") };
        let status = if journal.failure().is_some() { "err" } else { "ok" };
        write!(text, "aof_enabled:1\r\naof_last_write_status:{status}\r\n")?;
        write!(text, "log_appended_bytes:{}\r\nlog_live_bytes:{}\r\n", journal.appended, store.live())?;
        write!(text, "log_compactions:{}\r\n", facts.compactions)
    });
    section("Stats", &|text| {
        let counts = &store.counts;
        write!(text, "total_connections_received:{}\r\n", facts.accepted)?;
        write!(text, "total_commands_processed:{}\r\n", facts.commands)?;
        write!(text, "expired_keys:{}\r\nkeyspace_hits:{}\r\n", counts.expired, counts.hits)?;
        write!(text, "keyspace_misses:{}\r\nvalues_copied:{}\r\n", counts.misses, counts.copied)?;
        write!(text, "values_kept_in_place:{}\r\nvalues_refused:{}\r\n", counts.kept_in_place, counts.refused)
    });
    section("Keyspace", &|text| match store.len() {
        0 => Ok(()),
        keys => write!(text, "db0:keys={keys},expires={},avg_ttl=0\r\n", store.with_deadline()),
    });
    section("Demi", &|text| {
        let Some(counters) = &facts.counters else { return Ok(()) };
        write!(text, "turns:{}\r\nsleeps:{}\r\n", counters.turns, counters.sleeps)?;
        write!(text, "overdue_turns:{}\r\n", counters.overdue_turns)?;
        write!(text, "longest_gap_us:{}\r\n", counters.longest_gap.as_micros())?;
        write!(text, "operations_pending:{}\r\n", counters.operations_pending)?;
        write!(text, "operations_unreaped:{}\r\n", counters.operations_unreaped)?;
        write!(text, "stale_posts:{}\r\n", counters.stale_posts)?;
        counters.libos.iter().try_for_each(|(name, value)| write!(text, "{}_{name}:{value}\r\n", facts.libos))
    });
    text
}
