//! The parameters of a call, from its query string (`application/x-www-form-urlencoded`, URL Standard
//! section 5.1). Each mistake names the parameter it is in.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use percent_encoding::percent_decode_str;
use tonic::Status;

/// Decoded parameters in their order. Parameters that no call asks for do not
/// matter, as in goim.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query string; `None` counts as an empty one.
    ///
    /// # Errors
    /// If a parameter is not UTF-8.
    pub fn read(text: Option<&str>) -> Result<Self, Status> {
        let parts = text.unwrap_or_default().split('&').filter(|part| !part.is_empty());
        let decoded = parts.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decode(name, part)?, decode(value, part)?))
        });
        decoded.collect::<Result<_, _>>().map(Self)
    }

    /// The text of `name`.
    ///
    /// # Errors
    /// If it is missing, empty, or given more than once.
    pub fn text(&self, name: &str) -> Result<&str, Status> {
        match self.single(name)? {
            None => Err(Status::invalid_argument(format!("{name} is missing"))),
            Some("") => Err(Status::invalid_argument(format!("{name} is empty"))),
            Some(text) => Ok(text),
        }
    }

    /// The text of `name`, or an empty one where it is left out.
    ///
    /// # Errors
    /// If it is given more than once.
    pub fn optional_text(&self, name: &str) -> Result<&str, Status> {
        Ok(self.single(name)?.unwrap_or_default())
    }

    /// The text of `name`; `None` where it is left out.
    ///
    /// # Errors
    /// If it is empty, or given more than once.
    pub fn text_if_given(&self, name: &str) -> Result<Option<&str>, Status> {
        self.single(name)?.map(|_| self.text(name)).transpose()
    }

    /// The whole number `name`.
    ///
    /// # Errors
    /// If it is missing, not in `range`, or given more than once.
    pub fn number<T: TryFrom<i64>>(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<T, Status> {
        number(name, self.text(name)?, &range)
    }

    /// As [`Query::number`], but the number may be left out, which means 0.
    ///
    /// # Errors
    /// If it is not in `range`, or given more than once.
    pub fn optional_number<T: TryFrom<i64> + Default>(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<T, Status> {
        match self.single(name)? {
            None | Some("") => Ok(T::default()),
            Some(text) => number(name, text, &range),
        }
    }

    /// The text of `name`, which has to be one of `allowed`; `None` where it is left out.
    ///
    /// # Errors
    /// If it is another, or given more than once.
    pub fn optional_choice<'a>(
        &self,
        name: &str,
        allowed: &[&'a str],
    ) -> Result<Option<&'a str>, Status> {
        let Some(text) = self.single(name)?.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let choice = allowed.iter().find(|choice| **choice == text);
        choice.copied().map(Some).ok_or_else(|| {
            Status::invalid_argument(format!("{name}: {text:?} is none of {}", allowed.join(", ")))
        })
    }

    /// Every element of the list `name`: separated by commas, or the parameter repeated as goim's own
    /// clients do.
    ///
    /// # Errors
    /// If it is missing or has an empty element.
    pub fn list(&self, name: &str) -> Result<Vec<&str>, Status> {
        let list: Vec<_> = self.all(name).flat_map(|text| text.split(',')).collect();
        match list.iter().position(|element| element.is_empty()) {
            None if list.is_empty() => Err(Status::invalid_argument(format!("{name} is missing"))),
            None => Ok(list),
            Some(_) if list.len() == 1 => Err(Status::invalid_argument(format!("{name} is empty"))),
            Some(index) => {
                Err(Status::invalid_argument(format!("{name}: element {} is empty", index + 1)))
            }
        }
    }

    /// The list of whole numbers `name`.
    ///
    /// # Errors
    /// If it is missing, or an element is not a whole number of 64 bits.
    pub fn numbers(&self, name: &str) -> Result<Vec<i64>, Status> {
        let list = self.list(name)?;
        list.into_iter().map(|text| number(name, text, &(i64::MIN..=i64::MAX))).collect()
    }

    fn single(&self, name: &str) -> Result<Option<&str>, Status> {
        let mut values = self.all(name);
        let first = values.next();
        match values.count() {
            0 => Ok(first),
            more => Err(Status::invalid_argument(format!(
                "{name} is given {} times: give it once",
                more + 1
            ))),
        }
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

fn decode(text: &str, part: &str) -> Result<String, Status> {
    let text: Cow<'_, str> =
        if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded
        .map(Cow::into_owned)
        .map_err(|_| Status::invalid_argument(format!("{part:?} is not UTF-8")))
}

fn number<T: TryFrom<i64>>(
    name: &str,
    text: &str,
    range: &RangeInclusive<i64>,
) -> Result<T, Status> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        Status::invalid_argument(format!(
            "{name}: {text:?} is not a whole number from {least} to {most}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Query {
        Query::read(Some(text)).unwrap()
    }

    #[track_caller]
    fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, sentence: &str) {
        assert_eq!(outcome.unwrap_err().message(), sentence);
    }

    #[test]
    fn parameters_are_decoded() {
        let query = read("&a=1&b=x%20y+z%2B%26&&empty=&flag&%C3%A9=%2c");
        assert_eq!(query.number::<i32>("a", 0..=9).unwrap(), 1);
        assert_eq!(query.text("b").unwrap(), "x y z+&");
        assert_eq!(query.text("é").unwrap(), ",");
        refused(query.text("empty"), "empty is empty");
        refused(query.text("flag"), "flag is empty");
        refused(query.text("c"), "c is missing");
        refused(Query::read(None).unwrap().text("a"), "a is missing");
        refused(read("a=1&a=2&a=3").text("a"), "a is given 3 times: give it once");
        refused(Query::read(Some("a=%ff")).map(|_| ()), "\"a=%ff\" is not UTF-8");
    }

    #[test]
    fn numbers_are_in_their_range() {
        let check = |text: &str, expected: Result<i32, &str>| {
            let query = read(text);
            let range = i64::from(i32::MIN)..=i64::from(i32::MAX);
            match (query.number::<i32>("n", range), expected) {
                (Ok(number), Ok(expected)) => assert_eq!(number, expected, "{text}"),
                (outcome, expected) => refused(outcome, expected.unwrap_err()),
            }
        };
        check("n=-2147483648", Ok(i32::MIN));
        check("n=2147483647", Ok(i32::MAX));
        let kind = "is not a whole number from -2147483648 to 2147483647";
        for text in ["2147483648", "99999999999999999999", "x", "1.0", "1,2"] {
            check(&format!("n={text}"), Err(&format!("n: {text:?} {kind}")));
        }
        check("n=", Err("n is empty"));
        let speed = |text: &str| read(text).optional_number::<i32>("n", 0..=9);
        assert_eq!((speed("m=1").unwrap(), speed("n=").unwrap(), speed("n=9").unwrap()), (0, 0, 9));
        refused(speed("n=-1"), "n: \"-1\" is not a whole number from 0 to 9");
    }

    #[test]
    fn a_choice_is_one_of_those_allowed() {
        let choice = |text: &str| read(text).optional_choice("c", &["fine", "coarse"]);
        assert_eq!(choice("c=coarse").unwrap(), Some("coarse"));
        assert_eq!((choice("").unwrap(), choice("c=").unwrap()), (None, None));
        refused(choice("c=Fine"), "c: \"Fine\" is none of fine, coarse");
    }

    #[test]
    fn lists_have_commas_or_repeat_the_parameter() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(read(text).list("l").unwrap(), expected, "{text}");
        };
        check("l=a", &["a"]);
        check("l=a,b", &["a", "b"]);
        check("l=a%2Cb", &["a", "b"]);
        check("l=a&x=1&l=b,c&l=a", &["a", "b", "c", "a"]);
        refused(read("x=1").list("l"), "l is missing");
        refused(read("l=").list("l"), "l is empty");
        refused(read("l=a&l=").list("l"), "l: element 2 is empty");
        refused(read("l=a,,b").list("l"), "l: element 2 is empty");
        assert_eq!(read("l=1,-2&l=3").numbers("l").unwrap(), [1, -2, 3]);
        refused(
            read("l=1,x").numbers("l"),
            "l: \"x\" is not a whole number from -9223372036854775808 to 9223372036854775807",
        );
    }
}
