//! Users and groups by the databases of an image: `/etc/passwd` and `/etc/group` turn names into numbers.

use crate::error::{Error, Result};

/// The user databases of an image; empty where it has none.
#[derive(Clone, Debug, Default)]
pub struct Databases {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

/// A line of `/etc/passwd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account<'a> {
    /// The user's name.
    pub name: &'a str,
    /// The user's number.
    pub uid: u32,
    /// The number of the user's first group.
    pub gid: u32,
}

/// Whom `USER[:GROUP]` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The user's number.
    pub uid: u32,
    /// The group that was named, else the account's, else 0.
    pub gid: u32,
    /// The user's account, where there is one.
    pub account: Option<Account<'a>>,
}

impl Databases {
    /// Whom `text` stands for: `USER[:GROUP]`, each a name or a number; an empty user is 0.
    ///
    /// A number without an entry has group 0, a name without one is an error. Names come first: an account may be called
    /// `1234`.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidArgument`] for a name that is not here or a number that is none.
    pub fn find(&self, text: &str) -> Result<Found<'_>> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let (uid, account) = self.find_user(user)?;
        let gid = match group.filter(|group| !group.is_empty()) {
            Some(group) => self.find_group(group)?,
            None => account.as_ref().map_or(0, |account| account.gid),
        };
        Ok(Found { uid, gid, account })
    }

    /// The groups that `/etc/group` lists a user in by name.
    pub fn groups_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        let member = move |members: &str| members.split(',').any(|member| member.trim() == name);
        self.groups().filter(move |(_, _, members)| member(members)).map(|(_, gid, _)| gid)
    }

    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            Some(Account { name, uid, gid: fields.next()?.parse().ok()? })
        })
    }

    /// Name, number and members of each group.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((name, fields.nth(1)?.parse().ok()?, fields.next().unwrap_or_default()))
        })
    }

    fn find_user(&self, user: &str) -> Result<(u32, Option<Account<'_>>)> {
        let user = if user.is_empty() { "0" } else { user };
        if let Some(account) = self.accounts().find(|account| account.name == user) {
            return Ok((account.uid, Some(account)));
        }
        let uid =
            numeric(user).ok_or_else(|| Error::invalid(format!("user {user:?} is not in the image's /etc/passwd")))?;
        Ok((uid, self.accounts().find(|account| account.uid == uid)))
    }

    fn find_group(&self, group: &str) -> Result<u32> {
        if let Some((_, gid, _)) = self.groups().find(|(name, ..)| *name == group) {
            return Ok(gid);
        }
        numeric(group).ok_or_else(|| Error::invalid(format!("group {group:?} is not in the image's /etc/group")))
    }
}

/// A user or group number; the largest stands for "no change" in the kernel and is none.
fn numeric(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases() -> Databases {
        Databases {
            passwd: "root:x:0:0:root:/root:/bin/sh\n# rubbish\nada:x:1000:1001::/home/ada:/bin/sh\n1234:x:7:8:::\n"
                .into(),
            group: "root:x:0:\nwheel:x:10:root,ada\nbroken\nvideo:x:44: ada\n".into(),
        }
    }

    #[test]
    fn names_and_numbers_are_found() {
        let cases = [
            ("", (0, 0)),
            ("ada", (1000, 1001)),
            ("1000", (1000, 1001)),
            ("ada:video", (1000, 44)),
            ("ada:", (1000, 1001)),
            ("5:6", (5, 6)),
            ("4242", (4242, 0)),
            ("1234", (7, 8)),
        ];
        for (text, ids) in cases {
            let databases = databases();
            let found = databases.find(text).unwrap();
            assert_eq!((found.uid, found.gid), ids, "{text}");
        }
        assert_eq!(databases().groups_of("ada").collect::<Vec<_>>(), [10, 44]);
        assert_eq!(Databases::default().find("7:7").unwrap().uid, 7);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for text in ["nobody", "ada:nogroup", "-1", "4294967295", "99999999999"] {
            assert!(databases().find(text).is_err(), "{text}");
        }
    }
}
