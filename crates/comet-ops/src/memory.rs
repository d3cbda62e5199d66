//! How much memory this process has, and how much there is for it.

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

/// Memory that processes like this one may take, bytes: what the machine has, or the least that the control groups
/// around this process leave it.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn available_bytes() -> io::Result<u64> {
    let machine = Meminfo::current().map_err(io::Error::other)?.mem_total;
    let groups =
        Process::myself().and_then(|process| process.cgroups()).map_err(io::Error::other)?;
    // Of version 2, which has one hierarchy with the number 0.
    let group = groups.into_iter().find(|group| group.hierarchy == 0);
    let root = Path::new("/sys/fs/cgroup");
    let limits = group.iter().flat_map(|group| {
        let path = root.join(group.pathname.trim_start_matches('/'));
        let folders: Vec<_> = path
            .ancestors()
            .take_while(|folder| folder.starts_with(root))
            .map(Path::to_owned)
            .collect();
        folders.into_iter().filter_map(|folder| limit_of(&folder))
    });
    Ok(limits.fold(machine, u64::min))
}

/// The limit of a control group; none where there is none (`max`), or no such group is seen from here.
fn limit_of(group: &Path) -> Option<u64> {
    fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()
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
        assert_eq!(limit_of(group.path()), None);
        for (text, limit) in [("max\n", None), ("1073741824\n", Some(1 << 30))] {
            fs::write(group.path().join("memory.max"), text).unwrap();
            assert_eq!(limit_of(group.path()), limit);
        }
    }
}
