//! Keys of every kind, the tokens that they sign, and the key files to check the tokens.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use comet_logic::KeyFile;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use serde_json::{Value, json};

pub(crate) const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";

/// An RSA key of 2048 bits (PKCS #8), since ring makes none. Only these tests use it.
pub(crate) const RSA: &str = include_str!("rsa.pem");

/// The bytes of a SubjectPublicKeyInfo before the key (RFC 5480, RFC 8410).
pub(crate) const SPKI_P256: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\
    \x3d\x03\x01\x07\x03\x42\x00";
pub(crate) const SPKI_ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// A signing key of any kind.
pub(crate) enum Signer {
    Hmac(Vec<u8>),
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    pub(crate) fn hmac(secret: &[u8]) -> Self {
        Self::Hmac(secret.to_vec())
    }

    pub(crate) fn rsa() -> Self {
        let lines: String = RSA.lines().filter(|line| !line.starts_with("-----")).collect();
        Self::Rsa(RsaKeyPair::from_pkcs8(&STANDARD.decode(lines).unwrap()).unwrap())
    }

    pub(crate) fn ec() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    pub(crate) fn ed() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Self::Hmac(_) => "HS256",
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
        }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Hmac(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
            }
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// The key that checks the signatures, as a file of its own.
    pub(crate) fn file(&self) -> KeyFile {
        let bytes = match self {
            Self::Hmac(secret) => secret.clone(),
            Self::Rsa(key) => pem("RSA PUBLIC KEY", key.public().as_ref()),
            Self::Ec(key) => pem("PUBLIC KEY", &[SPKI_P256, key.public_key().as_ref()].concat()),
            Self::Ed(key) => pem("PUBLIC KEY", &[SPKI_ED25519, key.public_key().as_ref()].concat()),
        };
        file("the.key", bytes)
    }

    /// The same as a JWK.
    pub(crate) fn jwk(&self, id: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Hmac(secret) => json!({ "kty": "oct", "kid": id, "k": text(secret) }),
            Self::Rsa(key) => {
                let PublicKeyComponents::<Vec<u8>> { n, e } = key.public().into();
                json!({ "kty": "RSA", "kid": id, "use": "sig", "n": text(&n), "e": text(&e) })
            }
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (text(&point[1..33]), text(&point[33..]));
                json!({ "kty": "EC", "kid": id, "crv": "P-256", "x": x, "y": y })
            }
            Self::Ed(key) => {
                let x = text(key.public_key().as_ref());
                json!({ "kty": "OKP", "kid": id, "crv": "Ed25519", "alg": "EdDSA", "x": x })
            }
        }
    }

    pub(crate) fn token(&self, claims: &Value) -> Vec<u8> {
        self.token_with(&json!({ "alg": self.algorithm(), "typ": "JWT" }), claims)
    }

    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> Vec<u8> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}").into_bytes()
    }
}

pub(crate) fn all() -> [Signer; 4] {
    [Signer::hmac(SECRET), Signer::rsa(), Signer::ec(), Signer::ed()]
}

pub(crate) fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    let body = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
}

pub(crate) fn file(name: &str, bytes: impl Into<Vec<u8>>) -> KeyFile {
    KeyFile { name: name.to_owned(), bytes: bytes.into() }
}

pub(crate) fn set(keys: &[Value]) -> KeyFile {
    file("keys.jwks", json!({ "keys": keys }).to_string())
}
