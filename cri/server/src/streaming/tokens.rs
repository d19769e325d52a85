//! One-time tokens: each stands for one session, once, for a minute.
//!
//! A token is all that a client shows to run a program in a container, so it cannot be guessed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use tokio::time::Instant;
use windlass_model::{Error, Kind, Result};

use super::Session;

/// How long a token can be used.
const LIFETIME: Duration = Duration::from_secs(60);

/// How many tokens wait at most, as in the kubelet's library.
const MOST: usize = 1000;

/// How random a token is, in bytes.
const RANDOM: usize = 24;

/// The tokens that wait to be used.
#[derive(Default)]
pub(super) struct Tokens(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    sessions: HashMap<String, (Instant, Session)>,
    /// The oldest first; tokens that were used are still in it until their time is over.
    ages: VecDeque<(Instant, String)>,
}

impl Tokens {
    /// A token for `session`.
    ///
    /// # Errors
    /// [`Kind::ResourceExhausted`] when too many wait already.
    pub(super) fn mint(&self, session: Session) -> Result<String> {
        self.mint_at(session, Instant::now())
    }

    fn mint_at(&self, session: Session, now: Instant) -> Result<String> {
        let mut random = [0; RANDOM];
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut random)
            .map_err(|_| Error::internal("the kernel gives no random bytes"))?;
        let token = URL_SAFE_NO_PAD.encode(random);
        let mut waiting = self.0.lock();
        waiting.expire(now);
        if waiting.sessions.len() >= MOST {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!("{MOST} exec, attach and port-forward URLs wait to be used; try again in a minute"),
            ));
        }
        waiting.sessions.insert(token.clone(), (now, session));
        waiting.ages.push_back((now, token.clone()));
        Ok(token)
    }

    /// The session of a token, which works no second time.
    pub(super) fn redeem(&self, token: &str) -> Option<Session> {
        self.redeem_at(token, Instant::now())
    }

    fn redeem_at(&self, token: &str, now: Instant) -> Option<Session> {
        let mut waiting = self.0.lock();
        waiting.expire(now);
        waiting.sessions.remove(token).map(|(_, session)| session)
    }
}

impl Waiting {
    fn expire(&mut self, now: Instant) {
        while let Some((minted, token)) = self.ages.front()
            && (now.saturating_duration_since(*minted) >= LIFETIME || !self.sessions.contains_key(token))
        {
            self.sessions.remove(token);
            self.ages.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PortForwardSession;
    use super::*;

    fn session() -> Session {
        Session::PortForward(PortForwardSession { pod: "pod".parse().unwrap(), ports: Vec::new() })
    }

    #[test]
    fn a_token_works_once() {
        let tokens = Tokens::default();
        let (one, two) = (tokens.mint(session()).unwrap(), tokens.mint(session()).unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), RANDOM * 4 / 3);
        assert_eq!(tokens.redeem(&one), Some(session()));
        assert_eq!(tokens.redeem(&one), None);
        assert_eq!(tokens.redeem("guessed"), None);
        assert_eq!(tokens.redeem(&two), Some(session()));
        assert!(tokens.mint(session()).is_ok());
        assert_eq!(tokens.0.lock().ages.len(), 1, "used ones are forgotten");
    }

    #[test]
    fn a_token_dies_after_a_minute() {
        let tokens = Tokens::default();
        let now = Instant::now();
        let token = tokens.mint_at(session(), now).unwrap();
        assert_eq!(tokens.redeem_at(&token, now + LIFETIME), None);
    }

    #[test]
    fn unused_tokens_do_not_pile_up() {
        let tokens = Tokens::default();
        let now = Instant::now();
        for _ in 0..MOST {
            tokens.mint_at(session(), now).unwrap();
        }
        assert_eq!(tokens.mint_at(session(), now).unwrap_err().kind(), Kind::ResourceExhausted);
        tokens.mint_at(session(), now + LIFETIME).unwrap();
        assert_eq!(tokens.0.lock().sessions.len(), 1);
    }
}
