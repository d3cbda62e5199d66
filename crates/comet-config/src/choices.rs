//! Keys that take one of a few words. Each word stands once, with its meaning.

use serde::Deserialize;

/// An enumeration whose variants are words of the configuration.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    /// Every variant with its word and what it means.
    const WORDS: &'static [(Self, Word)];

    /// The word of this variant.
    fn word(self) -> &'static str {
        let entry = Self::WORDS.iter().find(|(variant, _)| *variant == self);
        entry.expect("every variant has a word").1.word
    }
}

/// A word that a key takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    /// The word.
    pub word: &'static str,
    /// Its meaning, a sentence.
    pub meaning: &'static str,
}

macro_rules! choices {
    ($(
        $(#[doc = $sentence:literal])+
        $name:ident { $($(#[doc = $meaning:literal])+ $variant:ident = $word:literal,)+ }
    )+) => {$(
        $(#[doc = $sentence])+
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
        pub enum $name {
            $($(#[doc = $meaning])+ #[serde(rename = $word)] $variant,)+
        }

        impl Choice for $name {
            const WORDS: &'static [(Self, Word)] =
                &[$((Self::$variant, Word { word: $word, meaning: concat!($($meaning),+) }),)+];
        }
    )+};
}

choices! {
    /// How connections of one address are shared out over the data cores.
    Steering {
        /// The kernel spreads them by a hash of both addresses.
        Off = "off",
        /// The core on whose CPU the packets arrive takes them. Spread the queues of the network card over
        /// server.cores first.
        Cpu = "cpu",
    }

    /// A version of TLS.
    TlsVersion {
        /// RFC 5246.
        V1_2 = "1.2",
        /// RFC 8446.
        V1_3 = "1.3",
    }

    /// What a full outbox does with one more push. Each outcome is counted.
    SlowConsumer {
        /// The new push is dropped, as in goim.
        DropNewest = "drop-newest",
        /// The oldest push that is not on its way yet is dropped. The newest always waits.
        DropOldest = "drop-oldest",
        /// The client is closed.
        Close = "close",
    }

    /// The meaning of the gRPC code UNKNOWN in an answer of logic.
    UnknownCode {
        /// The client is refused. goim's logic answers a bad token with it.
        Refuse = "refuse",
        /// Logic has failed: another address is asked, and the client is told to come back.
        Retry = "retry",
    }

    /// Which pushes to rooms other hosts send here.
    NatsRooms {
        /// Those to rooms with members here.
        Subscribed = "subscribed",
        /// All of them.
        All = "all",
    }

    /// Who keeps the histories of rooms.
    HistoryStore {
        /// Each host keeps its own.
        Host = "host",
        /// A stream of NATS, which all hosts read.
        Jetstream = "jetstream",
    }

    /// The form of a token.
    TokenKind {
        /// One of goim's forms, not verified: clients choose their own identity.
        Open = "open",
        /// A JSON Web Token (RFC 7519), verified with the keys in jwt_keys.
        Jwt = "jwt",
    }

    /// What happens to a connection when its token expires.
    TokenExpiry {
        /// It is closed. The client is told to come back, with a new token.
        Close = "close",
        /// It stays open.
        Ignore = "ignore",
    }

    /// A signature of a JWT (RFC 7518, section 3.1; EdDSA: RFC 8037).
    Algorithm {
        /// HMAC with SHA-256.
        HS256 = "HS256",
        /// RSASSA-PKCS1-v1_5 with SHA-256.
        RS256 = "RS256",
        /// ECDSA with P-256 and SHA-256.
        ES256 = "ES256",
        /// Ed25519.
        EdDSA = "EdDSA",
    }

    /// Where `comet logic` keeps sessions.
    SessionStore {
        /// In the process: they end with it.
        Memory = "memory",
        /// In Redis, as goim's logic does.
        Redis = "redis",
    }

    /// The form of the lines of logs.
    LogFormat {
        /// For people.
        Text = "text",
        /// For programs: one JSON object a line. docs/OPERATIONS.md has its fields.
        Json = "json",
    }

    /// Severity of log messages.
    LogLevel {
        /// Nothing.
        Off = "off",
        /// Failures.
        Error = "error",
        /// Conditions that need an operator.
        Warn = "warn",
        /// Events of the whole server.
        Info = "info",
        /// Events of single connections.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

impl LogLevel {
    /// The word in the configuration; the `log` crate parses it, too.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.word()
    }
}
