//! Pages of the rooms of this host, by name. The homes always list all rooms, so a list is kept for requests of the
//! next page.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use comet_hub::CallError;
use comet_hub::cluster::Page;
use comet_push::RoomsQuery;
use comet_serve::drop_offloaded;
use tokio::time::sleep;

use crate::hub::HubDriver;

/// Most bytes of a page in JSON: half of a NATS message.
pub(crate) const PAGE_BYTES: usize = 512 << 10;
/// How long a list is kept.
const KEEP: Duration = Duration::from_secs(5);

/// Rooms by name, with their members.
type List = Arc<[(Arc<str>, u32)]>;

pub(crate) struct RoomLists {
    hub: Arc<HubDriver>,
    /// The latest list that was not read to its end.
    kept: Arc<Mutex<Option<List>>>,
}

impl RoomLists {
    pub(crate) fn new(hub: Arc<HubDriver>) -> Self {
        Self { hub, kept: Arc::default() }
    }

    /// Rooms whose names begin with `prefix`, after `after`. A first page makes a new list.
    pub(crate) async fn page(
        &self,
        timeout: Duration,
        (prefix, after): (String, String),
        limit: usize,
    ) -> Result<Page, CallError> {
        let kept = if after.is_empty() { None } else { self.lock().clone() };
        if let Some(list) = kept {
            return Ok(page_of(&list, (&prefix, &after), limit));
        }
        let make = move |mut rooms: Vec<(Arc<str>, u32)>| {
            rooms.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            let list: List = rooms.into();
            let page = page_of(&list, (&prefix, &after), limit);
            (list, page)
        };
        let (list, page) = self.hub.rooms(timeout, make).await?;
        match &page {
            Page::Rooms { is_cut: true, .. } => self.keep(list),
            _ => drop_offloaded(list),
        }
        Ok(page)
    }

    /// Keeps a list for some time.
    fn keep(&self, list: List) {
        let kept = Arc::clone(&self.kept);
        drop_offloaded(self.lock().replace(Arc::clone(&list)));
        tokio::spawn(async move {
            sleep(KEEP).await;
            let mut kept = kept.lock().expect("nothing panics between lock and unlock");
            if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &list)) {
                *kept = None;
            }
            drop(kept);
            drop_offloaded(list);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Option<List>> {
        self.kept.lock().expect("nothing panics between lock and unlock")
    }
}

/// At most `limit` rooms and [`PAGE_BYTES`], but at least one room.
fn page_of(list: &[(Arc<str>, u32)], (prefix, after): (&str, &str), limit: usize) -> Page {
    let first = list.partition_point(|(room, _)| &**room < prefix || &**room <= after);
    let behind = list[first..].iter().take_while(|(room, _)| room.starts_with(prefix));
    let (mut rooms, mut bytes) = (Vec::new(), 0);
    for (room, members) in behind {
        bytes += json_bytes(room) + 16;
        if rooms.len() >= limit.clamp(1, RoomsQuery::LIMIT_MAX)
            || (bytes > PAGE_BYTES && !rooms.is_empty())
        {
            return Page::Rooms { rooms, is_cut: true };
        }
        rooms.push((Arc::clone(room), u64::from(*members)));
    }
    Page::Rooms { rooms, is_cut: false }
}

/// Upper bound of the bytes of a text in JSON.
pub(crate) fn json_bytes(text: &str) -> usize {
    let bytes = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rooms: &[&str]) -> Vec<(Arc<str>, u32)> {
        rooms.iter().map(|room| (Arc::from(*room), 1)).collect()
    }

    #[track_caller]
    fn check(page: Page, expected: &[&str], cut: bool) {
        let Page::Rooms { rooms, is_cut } = page else { panic!("{page:?}") };
        let rooms: Vec<_> = rooms.iter().map(|(room, _)| &**room).collect();
        assert_eq!((rooms, is_cut), (expected.to_vec(), cut));
    }

    #[test]
    fn a_page_is_of_rooms_with_the_prefix_behind_the_last_page() {
        let list = list(&["a", "b/1", "b/2", "b/3", "c"]);
        check(page_of(&list, ("", ""), 9), &["a", "b/1", "b/2", "b/3", "c"], false);
        check(page_of(&list, ("b/", ""), 2), &["b/1", "b/2"], true);
        check(page_of(&list, ("b/", "b/2"), 2), &["b/3"], false);
        check(page_of(&list, ("b/", "b/25"), 2), &["b/3"], false);
        check(page_of(&list, ("d", ""), 2), &[], false);
        check(page_of(&list, ("", "c"), 2), &[], false);
    }

    #[test]
    fn a_page_fits_a_message() {
        let names: Vec<String> =
            (0..PAGE_BYTES / 600 + 9).map(|n| format!("{n:05}{}", "\u{1}".repeat(100))).collect();
        let list = list(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let Page::Rooms { rooms, is_cut } = page_of(&list, ("", ""), usize::MAX) else { panic!() };
        assert!(is_cut);
        let json = serde_json::to_string(
            &rooms.iter().map(|(room, members)| (&**room, members)).collect::<Vec<_>>(),
        )
        .unwrap();
        assert!(json.len() <= PAGE_BYTES && json.len() > PAGE_BYTES / 2, "{}", json.len());
    }
}
