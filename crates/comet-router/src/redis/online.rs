//! Room counts in the form of goim v2's logic: a hash `ol_<server>` with fields "0" to "63", each a
//! JSON document with the rooms of that bucket.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::sessions::Buckets;

/// The document of one field. `updated` is a Unix time in seconds.
#[derive(Serialize, Deserialize)]
struct Online {
    #[serde(default)]
    server: String,
    /// goim's counts are signed. Go writes `null` for a nil map.
    room_count: Option<HashMap<String, i32>>,
    #[serde(default)]
    updated: i64,
}

/// The fields for those of `rooms` that are in `buckets`: name and document of each. An empty document
/// is that of a bucket without rooms.
pub(super) fn encode(
    server: &str,
    buckets: Buckets,
    rooms: &HashMap<String, u32>,
    updated: i64,
) -> Vec<(String, String)> {
    let mut fields: Vec<HashMap<String, i32>> = vec![HashMap::new(); Buckets::COUNT as usize];
    for (room, count) in rooms {
        let count = i32::try_from(*count).unwrap_or(i32::MAX);
        fields[Buckets::of(room) as usize].insert(room.clone(), count);
    }
    let document = |rooms: HashMap<String, i32>| {
        if rooms.is_empty() {
            return String::new();
        }
        let online = Online { server: server.to_owned(), room_count: Some(rooms), updated };
        serde_json::to_string(&online).expect("texts and numbers can be written as JSON")
    };
    let fields = (0..).zip(fields).filter(|(bucket, _)| buckets.contains(*bucket));
    fields.map(|(bucket, rooms): (u32, _)| (bucket.to_string(), document(rooms))).collect()
}

/// The rooms in a server's documents. If several have the same room, the one that was updated last
/// counts.
///
/// # Errors
/// If a document is not JSON of this form.
pub(super) fn decode(documents: &[String]) -> Result<HashMap<String, u32>, serde_json::Error> {
    let online: Result<Vec<Online>, _> =
        documents.iter().map(|json| serde_json::from_str(json)).collect();
    let mut online = online?;
    online.sort_by_key(|document| document.updated);
    let rooms = online.into_iter().filter_map(|document| document.room_count).flatten();
    Ok(rooms.map(|(room, count)| (room, u32::try_from(count).unwrap_or(0))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_document_has_goims_fields() {
        let rooms = HashMap::from([("live://1000".to_owned(), 3)]);
        let json = r#"{"server":"comet-1","room_count":{"live://1000":3},"updated":1700000000}"#;
        // goim's logic has this room in the same field.
        for (field, document) in encode("comet-1", Buckets::ALL, &rooms, 1_700_000_000) {
            assert_eq!(document, if field == "43" { json } else { "" }, "{field}");
        }
        let one = encode("comet-1", Buckets(1 << 7), &rooms, 0);
        assert_eq!(one, [("7".to_owned(), String::new())]);
    }

    #[test]
    fn the_last_update_of_a_room_counts() {
        let documents = [
            r#"{"server":"s","room_count":{"a":2},"updated":20}"#.to_owned(),
            r#"{"server":"s","room_count":{"a":1,"b":-1},"updated":10}"#.to_owned(),
            r#"{"server":"s","room_count":null,"updated":30}"#.to_owned(),
        ];
        let rooms = decode(&documents).unwrap();
        assert_eq!(rooms, HashMap::from([("a".to_owned(), 2), ("b".to_owned(), 0)]));
        assert!(decode(&["[]".to_owned()]).is_err());
    }

    proptest! {
        #[test]
        fn encoded_rooms_are_decoded(
            rooms in prop::collection::hash_map(".{0,20}", 0..=i32::MAX as u32, 0..200),
        ) {
            let fields = encode("server", Buckets::ALL, &rooms, 0);
            prop_assert_eq!(fields.len(), 64);
            let documents: Vec<String> =
                fields.into_iter().map(|(_, json)| json).filter(|json| !json.is_empty()).collect();
            prop_assert_eq!(decode(&documents).unwrap(), rooms);
        }
    }
}
