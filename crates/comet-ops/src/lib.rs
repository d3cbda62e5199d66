//! The operators' view of a process: metrics in the Prometheus format with those of the process and its heap, CPU and
//! heap profiles, the log and its level, a trace log, signals, and build information.
//!
//! A server writes its own numbers to an [`Exposition`] and adds [`expose_process`].
//!
//! **Invariant:** of the workspace's crates it depends only on comet-serve: nothing here knows a shard or a connection.

#![allow(clippy::disallowed_methods, reason = "profiles and the trace log tell the time of day")]

mod build_info;
mod carried;
mod certificates;
mod debug;
mod discovery;
mod escaped;
mod exposition;
mod flamegraph;
mod gates;
mod heap;
mod heap_use;
mod key_fetches;
mod line_writer;
mod log_format;
mod memory;
mod number;
mod other_process;
mod process;
mod process_log;
mod profile;
#[cfg(debug_assertions)]
mod provoked_panic;
mod released;
mod service_manager;
mod signals;
mod spans;
mod stderr;
mod trace_log;
mod upgrades;

pub use build_info::{COMMIT, RUSTC, VERSION_AND_COMMIT, build_info};
pub use carried::carry;
pub use certificates::{Certificate, CertificatesInUse};
pub use debug::{log_level, profiles};
pub use discovery::{count_poll, count_registration};
pub use escaped::Escaped;
pub use exposition::{CONTENT_TYPE, Exposition, Family, Kind};
pub use gates::{expose_call_times, expose_gates};
pub use heap_use::{allocated_bytes, enable_background_purge};
pub use key_fetches::count_key_fetch;
pub use line_writer::{LOG_BYTES_MAX, LogCounts, check_append};
pub use log_format::{LogFormat, json_line};
pub use memory::{available_bytes, resident_bytes};
pub use number::Number;
pub use other_process::OtherProcess;
pub use process_log::ProcessLog;
#[cfg(debug_assertions)]
pub use provoked_panic::{PANIC_WHEN_LOGGED, panic_if_asked};
pub use released::wait_until_released;
pub use service_manager::{Notice, ServiceManager};
pub use signals::{Signal, Signals};
pub use spans::{UnsentSpans, count_sent_spans, count_unsent_spans, set_collector};
pub use stderr::print_error;
pub use trace_log::{TraceLine, TraceLog};
pub use upgrades::{count_upgrades, upgrades};

/// Adds the families of this process, its log, its heap and the keys that it fetches. Values that the kernel or the
/// allocator does not provide are left out.
pub fn expose_process(page: &mut Exposition) {
    process_log::expose(page);
    key_fetches::expose(page);
    discovery::expose(page);
    spans::expose(page);
    upgrades::expose(page);
    match process::Process::read() {
        Ok(process) => process.expose(page),
        Err(error) => log::debug!("no process metrics: {error}"),
    }
    match heap_use::HeapUse::read() {
        Ok(heap) => heap.expose(page),
        Err(error) => log::debug!("no heap metrics: {error}"),
    }
}
