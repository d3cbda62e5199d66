//! What is not shown: passwords in addresses.

use crate::Config;

impl Config {
    /// The same, as it may be printed and logged.
    pub(crate) fn without_passwords(&self) -> Self {
        let mut shown = self.clone();
        for url in &mut shown.logic_server.redis {
            *url = without_password(url);
        }
        shown
    }
}

/// `url` with `***` for the password of `scheme://user:password@host`. Of what is no URL rather too much is
/// taken away than too little.
pub(crate) fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    match rest.rsplit_once('@') {
        Some((login, host)) => {
            let user = login.split_once(':').map_or("", |(user, _)| user);
            format!("{scheme}://{user}:***@{host}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_left_out() {
        let check = |url: &str, shown: &str| assert_eq!(without_password(url), shown);
        check("redis://h:6379/1", "redis://h:6379/1");
        check("redis://:secret@h", "redis://:***@h");
        check("redis://user:s:e@c/ret@h:1/2", "redis://user:***@h:1/2");
        check("redis://secret@h", "redis://:***@h");
        check("rediss://u:secret@h", "rediss://u:***@h");
        check("u:secret@h", "://u:***@h");
    }
}
