//! Rooms sorted by their number of members.

/// The first `limit` of `rooms`, those with the most members first; equal ones are ordered by name.
#[must_use]
pub fn fullest(mut rooms: Vec<(&str, u32)>, limit: usize) -> Vec<(&str, u32)> {
    let order = |one: &(&str, u32), other: &(&str, u32)| {
        other.1.cmp(&one.1).then_with(|| one.0.cmp(other.0))
    };
    if rooms.len() > limit {
        // Sorts only the kept rooms: there may be a million.
        rooms.select_nth_unstable_by(limit - 1, order);
        rooms.truncate(limit);
    }
    rooms.sort_unstable_by(order);
    rooms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_rooms_come_first() {
        let rooms = vec![("d", 1), ("a", 7), ("e", 9), ("c", 7), ("b", 7)];
        let check = |limit, expected: &[&str]| {
            let found = fullest(rooms.clone(), limit);
            assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), expected, "{limit}");
        };
        check(1, &["e"]);
        check(3, &["e", "a", "b"]);
        check(5, &["e", "a", "b", "c", "d"]);
        check(9, &["e", "a", "b", "c", "d"]);
        assert_eq!(fullest(Vec::new(), 1), []);
    }
}
