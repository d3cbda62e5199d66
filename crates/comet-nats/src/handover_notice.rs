//! Notices between the two processes of a live upgrade.

/// A notice between the two processes of a host, on the subject of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HandoverNotice {
    /// The new process is subscribed.
    Subscribed,
    /// A message that the former process has held. The second form: it is certain that it arrived by no other way.
    Message,
    SureMessage,
    /// All held messages were forwarded.
    Complete,
}

impl HandoverNotice {
    const ALL: [(Self, &str); 4] = [
        (Self::Subscribed, "subscribed"),
        (Self::Message, "message"),
        (Self::SureMessage, "sure_message"),
        (Self::Complete, "complete"),
    ];

    pub(crate) fn text(self) -> &'static str {
        let (_, text) = Self::ALL.into_iter().find(|(other, _)| *other == self).expect("listed");
        text
    }

    pub(crate) fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == text).map(|(notice, _)| notice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_come_back_from_their_texts() {
        for (notice, _) in HandoverNotice::ALL {
            assert_eq!(HandoverNotice::of(notice.text()), Some(notice));
        }
        assert_eq!(HandoverNotice::of("other"), None);
    }
}
