//! Query strings: each parameter is a value or a mistake that names it.

use comet_serve::Query;

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(query) = Query::read(Some(text)) else { return };
    for name in ["keys", "mids", "room", "operation", ""] {
        let mistakes = [
            query.text(name).err(),
            query.number::<i32>(name, 1..=100).err(),
            query.optional_number::<i32>(name, 0..=100).err(),
            query.optional_choice(name, &["a", "b"]).err(),
            query.list(name).err(),
            query.numbers(name).err(),
        ];
        for mistake in mistakes.iter().flatten() {
            assert!(mistake.message().starts_with(name), "{mistake}");
        }
        if let Ok(number) = query.number::<i32>(name, 1..=100) {
            assert!((1..=100).contains(&number));
        }
        if let Ok(numbers) = query.numbers(name) {
            assert_eq!(query.list(name).map(|list| list.len()).unwrap(), numbers.len());
        }
    }
}
