//! Rare paths of the code that must not lose what was promised: *sometimes* marks.
//!
//! The code counts that it came by one in a [`Reached`]. The simulator adds the counts up and
//! names the paths that no run has reached: what is never reached is not tested.
//!
//! [`RarePath`] is the one list. Only paths of replicated shards are in it, since faults lead there.
//! `crates/sim` tests that its seeds go on reaching those that they reach, and that
//! `docs/simulation.md` lists them all.

use std::collections::BTreeMap;

macro_rules! rare_paths {
    ($($variant:ident, $name:literal, $about:literal;)*) => {
        /// A rare path.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RarePath {
            $(#[doc = $about] $variant,)*
        }

        impl RarePath {
            /// All of them: first the log's, then the node's, then those between nodes.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What happened, in one sentence.
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$variant => $about,)*
                }
            }
        }
    };
}

rare_paths! {
    LogTruncated, "log truncated",
        "Entries that were not agreed on gave way to those of another leader.";
    WriteReplaced, "journal write under way replaced",
        "Entries were replaced while they were on their way to the journal.";
    CommitBeforeSync, "agreed on before the own sync",
        "A leader's entry was durable at a majority of others before it was at the leader.";
    StaleRejection, "stale rejection ignored",
        "A follower's refusal arrived after it had caught up.";
    HeartbeatBeyond, "heartbeat beyond the log's end",
        "A leader believed a follower to hold more than it did.";
    EntriesLetGo, "entries let go that a follower lacks",
        "A leader's memory for a slow follower was full.";
    QuorumLost, "leader stepped down by lost quorum",
        "A leader heard no majority for an election timeout.";
    LeaseRefused, "lease refused",
        "A leader had no lease when a read came, and asked a majority.";
    ReadRepeated, "read barrier asked again",
        "The question whether a replica still leads was not answered in time.";
    VotePromised, "vote refused by a promise",
        "A replica asked for a vote had heard a leader of late.";
    CampaignPromised, "campaign held back by a promise",
        "A replica that should have campaigned had promised not to.";
    HandOverTaken, "hand-over taken",
        "A replica was told by its leader to campaign at once.";
    HandOverRefused, "hand-over refused while lost",
        "A replica that had lost its state was told to campaign.";
    ReplicaLost, "replica lost",
        "A replica's acknowledgements ceased to count: damage, or a snapshot about to replace its state.";
    VotesForgotten, "votes forgotten",
        "A replica started that may have forgotten votes.";
    VoteRefusedLost, "vote refused while lost",
        "A replica that had lost its state, and perhaps votes, was asked for one.";
    OldLifeIgnored, "acknowledgement of another life ignored",
        "A lost replica's acknowledgement from before, or after, what its leader knew of it.";
    MarkerAppended, "entry appended for a lost peer",
        "A leader appended the entry that a peer without its votes waits for.";
    WholeByItself, "lost replica whole by its log",
        "A lost replica's log reached as far as before.";
    WholeByLeader, "lost replica whole by a leader's word",
        "A lost replica held what a leader named.";
    MembersLearned, "members learned after a snapshot",
        "A replica whose log begins with a snapshot heard from a leader who the members are.";
    SnapshotKeptLog, "snapshot kept the log",
        "A snapshot ended within the log of the replica that got it.";
    SnapshotCutLog, "snapshot shorter than the log",
        "A snapshot ended before the log of the replica, which had other entries.";
    FellAsleep, "group fell asleep",
        "Nothing happened in a shard, and its replicas ceased to send and to time anything.";
    StayedAwake, "follower stayed awake",
        "A follower told to sleep did not hold all yet.";
    WokenByLoss, "sleeping replica woken by a lost peer",
        "A peer's node went out of reach while a group slept.";

    LeadershipGained, "leadership gained",
        "A replica began to lead.";
    LeadershipLost, "leadership lost",
        "A replica ceased to lead.";
    Rebuilt, "memory rebuilt",
        "A replica that ceased to lead dropped its memory, which was ahead of what was agreed on.";
    RebuildWaited, "rebuild waited for a flush",
        "A flush was on its way to the table that a rebuild begins with.";
    SlowHandedOver, "handed over by a slow node",
        "A node whose disk or event loop was slow handed over a shard.";
    StopHandedOver, "handed over before a stop",
        "A node about to stop handed over a shard.";
    WaitersSent, "blocked commands sent elsewhere",
        "A replica ceased to lead while commands of clients waited there for keys.";
    RequestsMoved, "requests sent again",
        "The leader that a node's requests went to changed, or the link to it.";
    RequestRefused, "requests refused by a former leader",
        "A request arrived where nothing executes any more.";
    RoundDropped, "request of a refused round dropped",
        "A request arrived behind one that was refused.";
    RequestRepeated, "repeated request answered from the record",
        "A request arrived again that had been executed.";
    RequestVoid, "repeated request given up before",
        "A request arrived again that had been given up.";
    SessionDropped, "session of requests dropped",
        "The shard did not know the session of a request any more.";
    ReadOvertaken, "read overtaken",
        "A read's answer was lost, and a later write of its pipeline executed.";
    NoQuorum, "refused without a majority",
        "A node that reached no majority refused a request at once.";
    NoLeader, "no leader in time",
        "A request was never executed, because no leader took it in time.";
    OutcomeUnknown, "outcome unknown in time",
        "Nobody could tell in time whether a write was executed.";
    OutcomeExecuted, "outcome told",
        "A client asked what became of a write, and it had been executed.";
    OutcomeVoid, "write given up by a question",
        "A client asked what became of a write that was not executed, and never will be.";
    SnapshotBegun, "snapshot begun",
        "A leader began to send a shard's state.";
    SnapshotInstalled, "snapshot installed",
        "A replica took over a leader's state.";
    SnapshotStalled, "snapshot begun anew after a stall",
        "A transfer did not go on for ten seconds.";
    SnapshotReplaced, "snapshot replaced by another",
        "Another transfer began before one had ended.";
    SnapshotWaited, "snapshot waited for a flush or the journal",
        "The old state was still needed when a leader's state arrived.";
    TableGivenUp, "damaged table given up",
        "A replica's table could not be read.";
    TableDamagedAtStart, "damaged table found at a start",
        "A table could not be read when a node started.";
    DamageHandedOver, "damaged leader handed over",
        "A replica that led could not read its table.";
    StateWanted, "state asked for",
        "A replica without a table asked its leader for another state.";

    LinkDamaged, "link broken by damage",
        "A frame between two nodes failed its checksum.";
    LinkGap, "link broken by a gap",
        "Frames between two nodes were lost, doubled or reordered.";
    LinkSilent, "link silent",
        "Nothing came over a link for too long.";
    NodeRepaired, "damaged node repaired",
        "A node with damage on its disk had all of its state again.";
}

/// How often which rare path was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached(BTreeMap<RarePath, u64>);

impl Reached {
    /// Counts one time.
    pub fn mark(&mut self, path: RarePath) {
        *self.0.entry(path).or_default() += 1;
    }

    /// Counts one time if `reached`.
    #[inline]
    pub fn mark_if(&mut self, reached: bool, path: RarePath) {
        if reached {
            self.mark(path);
        }
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        for (path, count) in &other.0 {
            *self.0.entry(*path).or_default() += count;
        }
    }

    /// How often `path` was reached.
    pub fn count(&self, path: RarePath) -> u64 {
        self.0.get(&path).copied().unwrap_or(0)
    }

    /// The paths that were not reached, in the list's order.
    pub fn missing(&self) -> impl Iterator<Item = RarePath> {
        RarePath::ALL.iter().copied().filter(|path| self.count(*path) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn counts_add_up_and_the_rest_is_missing() {
        let (mut a, mut b) = (Reached::default(), Reached::default());
        a.mark(RarePath::Rebuilt);
        b.mark(RarePath::Rebuilt);
        b.mark(RarePath::LinkGap);
        a.add(&b);
        assert_eq!((a.count(RarePath::Rebuilt), a.count(RarePath::LinkGap)), (2, 1));
        let missing: BTreeSet<_> = a.missing().collect();
        assert_eq!(missing.len(), RarePath::ALL.len() - 2);
        assert!(!missing.contains(&RarePath::Rebuilt) && !missing.contains(&RarePath::LinkGap));
    }

    #[test]
    fn names_differ() {
        let names: BTreeSet<_> = RarePath::ALL.iter().map(|path| path.name()).collect();
        assert_eq!(names.len(), RarePath::ALL.len());
    }
}
