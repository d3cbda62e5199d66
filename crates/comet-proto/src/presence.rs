//! The body of pushes that tell members of a room which clients entered and left it.

use crate::text::put_string;

/// The clients that entered and left a room within some time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RoomChanges {
    /// Those who entered.
    pub joined: NamedMembers,
    /// Those who left.
    pub left: NamedMembers,
}

/// Their number, and the identities of the first of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NamedMembers {
    /// How many.
    pub count: u32,
    /// User id and key of the first of them.
    pub first: Vec<(i64, Box<str>)>,
}

impl RoomChanges {
    /// Counts a connection that entered or left; at most `names` are named. A connection that does both counts as
    /// neither.
    pub fn add(&mut self, user: i64, key: Box<str>, is_join: bool, names: usize) {
        let (to, from) = match is_join {
            true => (&mut self.joined, &mut self.left),
            false => (&mut self.left, &mut self.joined),
        };
        if let Some(at) = from.first.iter().position(|(_, known)| *known == key) {
            from.first.remove(at);
            from.count -= 1;
            return;
        }
        to.count += 1;
        if to.first.len() < names {
            to.first.push((user, key));
        }
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joined.count + self.left.count == 0
    }

    /// The body: `{"room":"r","members":7,"joined":1,"left":0,"who_joined":[{"mid":42,"key":"k"}],"who_left":[]}`.
    #[must_use]
    pub fn body(&self, room: &str, members: u32) -> Vec<u8> {
        let Self { joined, left } = self;
        let mut body = br#"{"room":"#.to_vec();
        put_string(&mut body, room);
        let counts = format!(
            r#","members":{members},"joined":{},"left":{},"who_joined":"#,
            joined.count, left.count
        );
        body.extend(counts.into_bytes());
        joined.put(&mut body);
        body.extend(br#","who_left":"#);
        left.put(&mut body);
        body.push(b'}');
        body
    }
}

impl NamedMembers {
    fn put(&self, body: &mut Vec<u8>) {
        body.push(b'[');
        for (at, (user, key)) in self.first.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            body.extend(format!(r#"{comma}{{"mid":{user},"key":"#).into_bytes());
            put_string(body, key);
            body.push(b'}');
        }
        body.push(b']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted_named_up_to_a_bound_and_cancel_each_other() {
        let mut changes = RoomChanges::default();
        changes.add(1, "a".into(), true, 2);
        changes.add(1, "a".into(), false, 2);
        assert!(changes.is_empty());
        changes.add(1, "\"".into(), false, 2);
        changes.add(1, "\"".into(), true, 2);
        assert!(changes.is_empty());
        for key in ["a", "b\n", "c"] {
            changes.add(-7, key.into(), true, 2);
        }
        changes.add(0, "d".into(), false, 2);
        let body = String::from_utf8(changes.body("r\"", 9)).unwrap();
        let expected = concat!(
            r#"{"room":"r\"","members":9,"joined":3,"left":1,"#,
            r#""who_joined":[{"mid":-7,"key":"a"},{"mid":-7,"key":"b\n"}],"who_left":[{"mid":0,"key":"d"}]}"#
        );
        assert_eq!(body, expected);
        changes.add(-7, "a".into(), false, 2);
        assert_eq!((changes.joined.count, changes.joined.first.len()), (2, 1));
    }
}
