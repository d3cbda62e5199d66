//! The memory that this process uses, and the memory available to it.

use std::fs;
use std::io;
use std::path::Path;

use procfs::process::Process;
use procfs::{Current, Meminfo};

/// Memory of this process in RAM, bytes.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn resident_bytes() -> io::Result<u64> {
    let statm = Process::myself().and_then(|process| process.statm()).map_err(io::Error::other)?;
    Ok(statm.resident * procfs::page_size())
}

/// Memory that this process may use, bytes: that of the machine, or the lowest limit of the control groups around this
/// process.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn available_bytes() -> io::Result<u64> {
    let machine = Meminfo::current().map_err(io::Error::other)?.mem_total;
    let groups =
        Process::myself().and_then(|process| process.cgroups()).map_err(io::Error::other)?;
    let limits = groups.into_iter().flat_map(|group| {
        let is_of_memory = group.controllers.iter().any(|name| name == "memory");
        let (root, file) = match group.hierarchy {
            // Version 2 has one hierarchy for all controllers.
            0 => ("/sys/fs/cgroup", "memory.max"),
            _ if is_of_memory => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return Vec::new(),
        };
        let root = Path::new(root);
        let path = root.join(group.pathname.trim_start_matches('/'));
        // The limits of parent groups apply as well. In a container the group may appear as the root, although its path
        // is that of the host.
        let folders = path.ancestors().take_while(|folder| folder.starts_with(root));
        folders.filter_map(|folder| limit_in(&folder.join(file))).collect::<Vec<u64>>()
    });
    Ok(limits.fold(machine, u64::min))
}

/// The limit of a control group; `None` if it has none (`max`), or is not visible from here.
fn limit_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_less_than_there_is() {
        let (resident, available) = (resident_bytes().unwrap(), available_bytes().unwrap());
        assert!(resident > 1 << 20 && resident < available, "{resident} of {available}");
    }

    #[test]
    fn a_group_has_a_number_or_no_limit() {
        let group = tempfile::tempdir().unwrap();
        let file = group.path().join("memory.max");
        assert_eq!(limit_in(&file), None);
        for (text, limit) in [("max\n", None), ("1073741824\n", Some(1 << 30))] {
            fs::write(&file, text).unwrap();
            assert_eq!(limit_in(&file), limit);
        }
    }
}
