//! Room counts in the form of goim v2's logic: a hash `ol_<server>` with fields "0" to "63", each a
//! JSON document with some of the server's rooms. goim chooses the field by a hash of the room.
//! Here rooms are distributed evenly; goim's readers merge all fields, so they see no difference.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// The number of fields that goim's logic reads.
const FIELDS: usize = 64;

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

/// The fields for `rooms`: name and document of each.
pub(super) fn encode(
    server: &str,
    rooms: &HashMap<String, u32>,
    updated: i64,
) -> Vec<(String, String)> {
    let mut fields: Vec<HashMap<String, i32>> = vec![HashMap::new(); rooms.len().min(FIELDS)];
    for (at, (room, count)) in rooms.iter().enumerate() {
        fields[at % FIELDS].insert(room.clone(), i32::try_from(*count).unwrap_or(i32::MAX));
    }
    let document = |(field, rooms): (usize, HashMap<String, i32>)| {
        let online = Online { server: server.to_owned(), room_count: Some(rooms), updated };
        let json =
            serde_json::to_string(&online).expect("texts and numbers can be written as JSON");
        (field.to_string(), json)
    };
    fields.into_iter().enumerate().map(document).collect()
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
        let fields = encode("comet-1", &rooms, 1_700_000_000);
        let json = r#"{"server":"comet-1","room_count":{"live://1000":3},"updated":1700000000}"#;
        assert_eq!(fields, [("0".to_owned(), json.to_owned())]);
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
            let fields = encode("server", &rooms, 0);
            prop_assert!(fields.len() <= FIELDS);
            let documents: Vec<String> = fields.into_iter().map(|(_, json)| json).collect();
            prop_assert_eq!(decode(&documents).unwrap(), rooms);
        }
    }
}
