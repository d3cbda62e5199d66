//! The first message of the new process.

/// The formats of states that a process reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// The highest version of the format.
    pub version: u32,
    /// The features it knows, of those that a state may require.
    pub features: Vec<String>,
}

impl Greeting {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { version, features } = self;
        format!("{version}\n{}", features.join("\n")).into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        let version = lines.next()?.parse().ok()?;
        Some(Self { version, features: lines.map(Into::into).collect() })
    }

    /// Whether a process with this greeting can read a state of `written`. The error says why not.
    pub(crate) fn reads(&self, written: &Self) -> Result<(), String> {
        if self.version < written.version {
            return Err(format!("it reads version {}, not {}", self.version, written.version));
        }
        match written.features.iter().find(|feature| !self.features.contains(feature)) {
            Some(feature) => Err(format!("it does not know {feature}")),
            None => Ok(()),
        }
    }
}
