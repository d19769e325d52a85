//! Finds out whom a container runs as: the request's or the image's user, with `/etc/passwd` and `/etc/group` of the
//! image to turn names into numbers and to find further groups.

use windlass_cri_api::v1;
use windlass_model::user::Databases;
use windlass_model::{Error, Result};

use super::record::User;

/// The user of a container: `context` wins over `image`, the image's `USER`.
///
/// A number without an entry in `/etc/passwd` has group 0, a name without one is an error. Groups that `/etc/group` lists
/// the user in are added unless the policy is `Strict`; the primary group always counts among the groups.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for a name that the image does not know or a number that is none.
pub(crate) fn resolve(
    context: Option<&v1::LinuxContainerSecurityContext>,
    image: &str,
    databases: &Databases,
) -> Result<User> {
    let asked = context.and_then(asked_for);
    let text = asked.as_deref().unwrap_or(image);
    let found = databases.find(text)?;
    let mut groups = vec![found.gid];
    let strict = v1::SupplementalGroupsPolicy::Strict as i32;
    if context.is_none_or(|context| context.supplemental_groups_policy != strict)
        && let Some(account) = &found.account
    {
        groups.extend(databases.groups_of(account.name));
    }
    for group in context.map(|context| context.supplemental_groups.as_slice()).unwrap_or_default() {
        groups.push(number(*group, "supplemental_groups")?);
    }
    let mut seen = std::collections::HashSet::new();
    groups.retain(|group| seen.insert(*group));
    Ok(User { uid: found.uid, gid: found.gid, groups })
}

/// `user[:group]` of the request; nothing where it leaves the user to the image.
fn asked_for(context: &v1::LinuxContainerSecurityContext) -> Option<String> {
    let user = match &context.run_as_user {
        Some(uid) => uid.value.to_string(),
        None => context.run_as_username.clone(),
    };
    if user.is_empty() {
        return None;
    }
    Some(match &context.run_as_group {
        Some(gid) => format!("{user}:{}", gid.value),
        None => user,
    })
}

fn number(value: i64, field: &str) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|number| *number != u32::MAX)
        .ok_or_else(|| Error::invalid(format!("linux.security_context.{field}: {value} is no id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases() -> Databases {
        Databases {
            passwd: "root:x:0:0:root:/root:/bin/sh\n# rubbish\nada:x:1000:1001::/home/ada:/bin/sh\n1234:x:7:8:::\n"
                .into(),
            group: "root:x:0:\nwheel:x:10:root,ada\nada:x:1001:\nbroken\nvideo:x:44:ada\n".into(),
        }
    }

    fn context(user: Option<i64>, name: &str, group: Option<i64>) -> v1::LinuxContainerSecurityContext {
        v1::LinuxContainerSecurityContext {
            run_as_user: user.map(|value| v1::Int64Value { value }),
            run_as_username: name.into(),
            run_as_group: group.map(|value| v1::Int64Value { value }),
            ..Default::default()
        }
    }

    #[test]
    fn users_resolve_as_the_image_knows_them() {
        type Case = (Option<v1::LinuxContainerSecurityContext>, &'static str, (u32, u32, &'static [u32]));
        let cases: [Case; 10] = [
            (None, "", (0, 0, &[0, 10])),
            (None, "ada", (1000, 1001, &[1001, 10, 44])),
            (None, "1000", (1000, 1001, &[1001, 10, 44])),
            (None, "ada:video", (1000, 44, &[44, 10])),
            (None, "5:6", (5, 6, &[6])),
            (None, "4242", (4242, 0, &[0])),
            (None, "1234", (7, 8, &[8])),
            (Some(context(Some(1000), "", None)), "root", (1000, 1001, &[1001, 10, 44])),
            (Some(context(Some(1000), "", Some(3))), "root", (1000, 3, &[3, 10, 44])),
            (Some(context(None, "ada", None)), "root", (1000, 1001, &[1001, 10, 44])),
        ];
        for (context, image, (uid, gid, groups)) in cases {
            let user = resolve(context.as_ref(), image, &databases()).unwrap();
            assert_eq!(user, User { uid, gid, groups: groups.to_vec() }, "{context:?} {image}");
        }
    }

    #[test]
    fn strict_takes_only_the_groups_of_the_request() {
        let strict = v1::LinuxContainerSecurityContext {
            supplemental_groups_policy: v1::SupplementalGroupsPolicy::Strict as i32,
            supplemental_groups: vec![5, 5],
            ..context(Some(1000), "", None)
        };
        assert_eq!(resolve(Some(&strict), "", &databases()).unwrap().groups, [1001, 5]);
        let merge = v1::LinuxContainerSecurityContext { supplemental_groups_policy: 0, ..strict };
        assert_eq!(resolve(Some(&merge), "", &databases()).unwrap().groups, [1001, 10, 44, 5]);
    }

    #[test]
    fn unknown_names_and_impossible_numbers_are_refused() {
        for image in ["nobody", "ada:nogroup", "-1", "4294967295", "99999999999"] {
            assert!(resolve(None, image, &databases()).is_err(), "{image}");
        }
        let groups = v1::LinuxContainerSecurityContext { supplemental_groups: vec![-1], ..Default::default() };
        assert!(resolve(Some(&groups), "", &databases()).is_err());
        assert_eq!(resolve(None, "7:7", &Databases::default()).unwrap().uid, 7);
    }
}
