//! Heap profiles of the running process: which stacks allocated memory, and which memory is still held.
//!
//! The allocator, jemalloc, records the stacks of a sample of the allocations. Each byte is sampled with the same
//! probability, so samples can be scaled up to totals. A profile switches sampling on, clears the samples, and switches
//! it off; between profiles the allocator only counts bytes down. A process that runs with
//! `_RJEM_MALLOC_CONF=prof_active:true` samples from its start, more coarsely, and can be asked at any time.
//!
//! A core that takes a sample unwinds its stack for some microseconds, and stores it under a lock of that stack.
//! Writing the samples out holds each of these locks for a moment.

mod encode;
mod sample;
mod symbols;

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{MemfdFlags, memfd_create};
use tikv_jemalloc_ctl::{Access, AsName, Error};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::profile::NoProfile;
use sample::Dump;
use symbols::Symbols;

pub(crate) use encode::{HeapProfile, KIND, KINDS};

/// Average number of bytes between samples of a separate profile, as a power of two. It is fine-grained, because such a
/// profile is short.
const LG_INTERVAL: usize = 16;

/// Held while a profile is taken, because sampling is global to the process.
static TAKING: Mutex<Option<DumpFile>> = Mutex::const_new(None);

/// Whether the process samples from its start.
pub(crate) fn is_kept() -> bool {
    is_set("opt.prof_active\0")
}

/// Samples for `time`. Dropping the future ends it at once.
pub(crate) async fn take(time: Duration) -> Result<HeapProfile, NoProfile> {
    let sampling = Sampling::begin()?;
    sleep(time).await;
    sampling.end(time).await
}

/// The samples since the start of a process for which [`is_kept`] is true.
pub(crate) async fn read() -> Result<HeapProfile, NoProfile> {
    Sampling::kept()?.end(Duration::ZERO).await
}

/// The one profile being taken.
struct Sampling {
    file: MutexGuard<'static, Option<DumpFile>>,
    is_kept: bool,
}

impl Sampling {
    fn begin() -> Result<Self, NoProfile> {
        let file = TAKING.try_lock().map_err(|_| NoProfile::Busy)?;
        if !is_set("opt.prof\0") {
            let cause = "this comet was built without JEMALLOC_SYS_WITH_MALLOC_CONF=prof:true, which \
                         .cargo/config.toml says";
            return Err(NoProfile::Failed(cause.to_owned()));
        }
        // From here on, dropping it switches sampling off.
        let sampling = Self { file, is_kept: false };
        write("prof.reset\0", LG_INTERVAL)?;
        write("prof.active\0", true)?;
        Ok(sampling)
    }

    fn kept() -> Result<Self, NoProfile> {
        let file = TAKING.try_lock().map_err(|_| NoProfile::Busy)?;
        Ok(Self { file, is_kept: true })
    }

    /// Reads the samples, outside of the control thread's event loop.
    async fn end(mut self, duration: Duration) -> Result<HeapProfile, NoProfile> {
        let end = move || {
            let time = SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH);
            let text = self.dump()?;
            let dump = Dump::parse(&text)
                .ok_or_else(|| NoProfile::Failed("the allocator's dump does not read".into()))?;
            let symbols = Symbols::look_up(dump.addresses());
            Ok(HeapProfile { dump, symbols, time, duration })
        };
        spawn_blocking(end).await.expect("nothing in it panics, and nobody cancels it")
    }

    fn dump(&mut self) -> Result<String, NoProfile> {
        if !self.is_kept {
            write("prof.active\0", false)?;
        }
        let file = match &mut *self.file {
            Some(file) => file,
            none => none.insert(DumpFile::create()?),
        };
        write("prof.dump\0", file.path)?;
        Ok(file.take()?)
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let off = write("prof.active\0", false).and_then(|()| write("prof.reset\0", LG_INTERVAL));
        if let Err(NoProfile::Failed(error)) = off {
            log::error!("heap profile: {error}");
        }
    }
}

/// The file that the allocator writes to. The allocator takes a file name; this file is in no directory.
struct DumpFile {
    file: File,
    /// Ends with a NUL. Never freed, as the allocator's interface requires, so there is only one file.
    path: &'static [u8],
}

impl DumpFile {
    fn create() -> std::io::Result<Self> {
        let file = File::from(memfd_create("comet-heap", MemfdFlags::CLOEXEC)?);
        let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
        Ok(Self { file, path: Vec::leak(path.into_bytes()) })
    }

    /// Returns the written text, and frees its memory.
    fn take(&mut self) -> std::io::Result<String> {
        let mut text = String::new();
        self.file.rewind()?;
        self.file.read_to_string(&mut text)?;
        self.file.set_len(0)?;
        Ok(text)
    }
}

/// The flag `name`, which ends with a NUL, as listed in jemalloc(3).
fn is_set(name: &str) -> bool {
    name.name().read().unwrap_or(false)
}

fn write<T>(name: &str, value: T) -> Result<(), NoProfile>
where
    tikv_jemalloc_ctl::Name: Access<T>,
{
    name.name().write(value).map_err(|error: Error| {
        NoProfile::Failed(format!("jemalloc refuses {}: {error}", name.trim_end_matches('\0')))
    })
}
