//! A small model of a cluster that carries moves out, for tests and measurements.
//!
//! It knows nothing of the planner but the types of its interface. A move is begun, and later ends,
//! done or given up; in between, nodes may die, come back, join and drain. What the planner
//! promises of its moves is checked before they are begun ([`World::begin`]), by rules written down
//! once more here.

use crate::{
    Action, Health, LeaderPreference, Limits, Move, Name, Node, Plan, Replica, Role, Shard, Space,
    State,
};
use quorate_base::ids::NodeId;
use quorate_base::limits::SLOTS;
use quorate_base::{Millis, Prng, ShardId, SpaceId};

/// Disk space of a node, if nothing else is said.
const DISK_BYTES: u64 = 1 << 40;

/// A cluster, and what is in its slots.
#[derive(Clone, Debug)]
pub struct World {
    /// What a planner sees.
    pub state: State,
    /// What it keeps to.
    pub limits: Limits,
    /// By space: bytes and load of the slots before each slot.
    contents: Vec<Vec<(u64, u64)>>,
    next_shard: ShardId,
    next_node: NodeId,
}

impl World {
    /// Nodes 1, 2, … in zones, given as region, zone and number of nodes.
    pub fn new(zones: &[(&str, &str, usize)]) -> Self {
        let (state, limits) = (State::default(), Limits::default());
        let mut world = Self { state, limits, contents: Vec::new(), next_shard: 0, next_node: 1 };
        world.state.now = 1_000_000;
        for (region, zone, nodes) in zones {
            for _ in 0..*nodes {
                world.join(region, zone);
            }
        }
        world
    }

    /// One more node, with the next id.
    pub fn join(&mut self, region: &str, zone: &str) -> NodeId {
        let id = self.next_node;
        self.next_node += 1;
        self.state.nodes.push(Node {
            id,
            name: format!("n{id}").into(),
            region: region.into(),
            zone: zone.into(),
            health: Health::Alive,
            draining: false,
            weight: 1,
            used_bytes: 0,
            available_bytes: DISK_BYTES,
        });
        id
    }

    /// One more space whose shards each have `replicas`; its slots are empty.
    pub fn space(&mut self, replicas: u8) -> SpaceId {
        let id = self.state.spaces.len() as SpaceId;
        self.state.spaces.push(Space {
            id,
            name: format!("s{id}").into(),
            replicas,
            regions: Vec::new(),
            leader: LeaderPreference::Anywhere,
            shards_min: u32::MAX,
        });
        self.contents.push(vec![(0, 0); usize::from(SLOTS) + 1]);
        id
    }

    /// Says what each slot of a space has: bytes and load.
    pub fn fill(&mut self, space: SpaceId, of: impl Fn(u16) -> (u64, u64)) {
        let mut sum = (0, 0);
        let contents = &mut self.contents[usize::from(space)];
        contents[0] = sum;
        for slot in 0..SLOTS {
            let (bytes, load) = of(slot);
            sum = (sum.0 + bytes, sum.1 + load);
            contents[usize::from(slot) + 1] = sum;
        }
        for at in 0..self.state.shards.len() {
            self.weigh(at);
        }
    }

    /// A shard with voters on `nodes`, the first of which leads.
    pub fn shard(&mut self, space: SpaceId, slots: (u16, u16), nodes: &[NodeId]) -> ShardId {
        let id = self.next_shard;
        self.next_shard += 1;
        let voter =
            |node: &NodeId| Replica { node: *node, role: Role::Voter, caught_up: true, lag: 0 };
        self.state.shards.push(Shard {
            id,
            space,
            first: slots.0,
            last: slots.1,
            epoch: 1,
            replicas: nodes.iter().map(voter).collect(),
            leader: nodes.first().copied(),
            bytes: 0,
            load: 0,
            origin: None,
            middle: None,
            under_way: None,
        });
        self.weigh(self.state.shards.len() - 1);
        id
    }

    /// `count` shards of a space over all slots, evenly on the nodes that are there, one zone after
    /// the other.
    pub fn shards(&mut self, space: SpaceId, count: u32) {
        let mut nodes: Vec<(usize, Name, NodeId)> = Vec::new();
        for node in &self.state.nodes {
            let before = nodes.iter().filter(|(_, zone, _)| *zone == node.zone).count();
            nodes.push((before, node.zone.clone(), node.id));
        }
        nodes.sort();
        let replicas = usize::from(self.space_of(space).replicas).min(nodes.len());
        for at in 0..count {
            let slot = |at: u32| (u64::from(at) * u64::from(SLOTS) / u64::from(count)) as u16;
            let on = |n: usize| nodes[(at as usize * replicas + n) % nodes.len()].2;
            let mut seats: Vec<NodeId> = (0..replicas).map(on).collect();
            seats.rotate_left(at as usize * replicas / nodes.len() % replicas);
            self.shard(space, (slot(at), slot(at + 1) - 1), &seats);
        }
    }

    /// Puts the disk figures of all nodes right.
    pub fn account(&mut self) {
        let mut used = vec![0; self.state.nodes.len()];
        for shard in &self.state.shards {
            for replica in &shard.replicas {
                if let Some(at) = self.node_at(replica.node) {
                    used[at] += shard.bytes;
                }
            }
        }
        for (node, used) in self.state.nodes.iter_mut().zip(used) {
            let disk = node.used_bytes + node.available_bytes;
            node.used_bytes = used;
            node.available_bytes = disk.saturating_sub(used);
        }
    }

    fn weigh(&mut self, at: usize) {
        let shard = &mut self.state.shards[at];
        let contents = &self.contents[usize::from(shard.space)];
        let (from, to) =
            (contents[usize::from(shard.first)], contents[usize::from(shard.last) + 1]);
        (shard.bytes, shard.load) = (to.0 - from.0, to.1 - from.1);
    }

    // --- what happens ------------------------------------------------------------------------------

    /// A node cannot be reached any more.
    pub fn lose(&mut self, node: NodeId) {
        let now = self.state.now;
        self.node_mut(node).health = Health::Gone { since: now };
        self.elect();
    }

    /// A node is there again.
    pub fn come_back(&mut self, node: NodeId) {
        self.node_mut(node).health = Health::Alive;
        self.elect();
    }

    /// A node that is gone is struck off.
    pub fn forget(&mut self, node: NodeId) {
        assert!(!self.is_alive(node), "only nodes that are gone are forgotten");
        self.state.nodes.retain(|known| known.id != node);
    }

    /// Lets time pass.
    pub fn wait(&mut self, ms: Millis) {
        self.state.now += ms;
    }

    /// Where a leader is missing, a voter that has all entries takes over, if there is a majority.
    pub fn elect(&mut self) {
        for at in 0..self.state.shards.len() {
            let shard = &self.state.shards[at];
            let leads =
                |node: NodeId| self.is_alive(node) && shard.voters().any(|voter| voter == node);
            if shard.leader.is_some_and(leads) {
                continue;
            }
            let voters = shard.voters().count();
            let alive = shard.voters().filter(|node| self.is_alive(*node)).count();
            let mut fit = shard.replicas.iter().filter(|replica| {
                replica.votes() && replica.caught_up && self.is_alive(replica.node)
            });
            let leader = if alive > voters / 2 { fit.next().map(|r| r.node) } else { None };
            self.state.shards[at].leader = leader;
        }
    }

    /// All learners and followers that can be reached get what they lack.
    pub fn catch_up(&mut self) {
        for at in 0..self.state.shards.len() {
            self.catch_up_shard(at);
        }
    }

    /// Those of one shard.
    pub fn catch_up_shard(&mut self, at: usize) {
        if self.state.shards[at].leader.is_none_or(|leader| !self.is_alive(leader)) {
            return;
        }
        for replica in 0..self.state.shards[at].replicas.len() {
            if self.is_alive(self.state.shards[at].replicas[replica].node) {
                let replica = &mut self.state.shards[at].replicas[replica];
                (replica.caught_up, replica.lag) = (true, 0);
            }
        }
    }

    /// Begins the moves of a plan, after checking each and all of them against what is promised.
    pub fn begin(&mut self, plan: &Plan) {
        self.check_bounds(plan);
        for planned in &plan.moves {
            self.check(planned);
            self.at_mut(planned.shard).under_way = Some(planned.action);
        }
    }

    /// Ends the move that is under way for the shard at `at`: gives it up, or carries it out if
    /// that is still possible.
    pub fn end(&mut self, at: usize, give_up: bool) {
        let Some(action) = self.state.shards[at].under_way.take() else { return };
        if give_up || !self.can(at, action) {
            return;
        }
        let is_done = !matches!(action, Action::Transfer { .. });
        self.state.shards[at].epoch += u64::from(is_done);
        match action {
            Action::AddReplica { node, instead_of } => {
                let role = Role::Learner { instead_of };
                let learner = Replica { node, role, caught_up: false, lag: 1000 };
                self.state.shards[at].replicas.push(learner);
                self.charge(node, self.state.shards[at].bytes as i64);
            }
            Action::Promote { node } => self.promote(at, node),
            Action::Replace { old, new } => {
                self.promote(at, new);
                self.drop_replica(at, old);
            }
            Action::Remove { node } => self.drop_replica(at, node),
            Action::Transfer { to, .. } => self.state.shards[at].leader = Some(to),
            Action::Split { at: slot } => self.split(at, slot),
            Action::Merge { with } => self.merge(at, with),
        }
    }

    fn promote(&mut self, at: usize, node: NodeId) {
        let replicas = &mut self.state.shards[at].replicas;
        let learner = replicas.iter_mut().find(|replica| replica.node == node);
        learner.expect("only what can be done is done").role = Role::Voter;
    }

    fn drop_replica(&mut self, at: usize, node: NodeId) {
        let shard = &mut self.state.shards[at];
        shard.replicas.retain(|replica| replica.node != node);
        if shard.leader == Some(node) {
            let next = shard.voters().next();
            shard.leader = next;
        }
        let bytes = shard.bytes;
        self.charge(node, -(bytes as i64));
        self.elect_one(at);
    }

    fn elect_one(&mut self, at: usize) {
        let shard = &self.state.shards[at];
        if shard.leader.is_some_and(|leader| !self.is_alive(leader)) {
            let fit = shard.replicas.iter().find(|replica| {
                replica.votes() && replica.caught_up && self.is_alive(replica.node)
            });
            let leader = fit.map(|replica| replica.node);
            self.state.shards[at].leader = leader;
        }
    }

    fn split(&mut self, at: usize, slot: u16) {
        let mut right = self.state.shards[at].clone();
        let before = right.bytes;
        (right.id, right.first, right.epoch) = (self.next_shard, slot, 1);
        self.next_shard += 1;
        self.state.shards[at].last = slot - 1;
        self.state.shards.push(right);
        let end = self.state.shards.len() - 1;
        self.weigh(at);
        self.weigh(end);
        let after = self.state.shards[at].bytes + self.state.shards[end].bytes;
        assert_eq!(before, after, "a split changes how much there is");
    }

    fn merge(&mut self, at: usize, with: ShardId) {
        let other = self.position(with).expect("only what can be done is done");
        self.state.shards[at].last = self.state.shards[other].last;
        self.state.shards.remove(other);
        self.weigh(if other < at { at - 1 } else { at });
    }

    /// One round in a world where all goes well: plan, carry out, catch up. Returns the moves.
    pub fn round(&mut self) -> Vec<Move> {
        let plan = crate::plan(&self.state, &self.limits).expect("a world is valid");
        self.check_bounds(&plan);
        plan.moves.iter().for_each(|planned| self.check(planned));
        self.carry_out(&plan);
        plan.moves
    }

    /// Carries out what a plan says and gives learners all they lack, without checking anything.
    pub fn carry_out(&mut self, plan: &Plan) {
        for planned in &plan.moves {
            self.at_mut(planned.shard).under_way = Some(planned.action);
        }
        for planned in &plan.moves {
            if let Some(at) = self.position(planned.shard) {
                self.end(at, false);
            }
        }
        self.catch_up();
        self.elect();
        self.wait(1000);
    }

    /// Rounds until nothing is left to do, at most `max`; with all moves made.
    pub fn settle(&mut self, max: usize) -> (usize, Vec<Move>) {
        let mut all = Vec::new();
        for round in 0..max {
            let moves = self.round();
            let moving = self.state.shards.iter().any(|shard| self.is_moving(shard));
            if moves.is_empty() && !moving {
                return (round, all);
            }
            all.extend(moves);
        }
        let last: Vec<String> = all.iter().rev().take(20).map(ToString::to_string).collect();
        panic!("not at rest after {max} rounds; the last moves:\n{}", last.join("\n"));
    }

    /// Changes each shard's load by up to `percent`.
    pub fn jitter(&mut self, prng: &mut Prng, percent: u64) {
        for shard in &mut self.state.shards {
            let factor = 100 + prng.below(2 * percent + 1) - percent;
            shard.load = shard.load * factor / 100;
        }
    }

    // --- what must hold ----------------------------------------------------------------------------

    /// Whether a move can still be carried out: what its executor looks at before it begins.
    fn can(&self, at: usize, action: Action) -> bool {
        let shard = &self.state.shards[at];
        let Some(leader) = shard.leader.filter(|leader| self.is_alive(*leader)) else {
            return false;
        };
        let takes = |node: NodeId| {
            self.is_alive(node) && self.is_allowed(shard, node) && !self.node(node).draining
        };
        let learns = |node: NodeId| {
            let mut learners = shard.replicas.iter().filter(|r| !r.votes() && r.caught_up);
            learners.any(|replica| replica.node == node) && takes(node)
        };
        match action {
            Action::AddReplica { node, .. } => {
                takes(node)
                    && !holds(shard, node)
                    && self.has_quorum(shard)
                    && self.node(node).available_bytes >= shard.bytes
            }
            Action::Promote { node } => learns(node) && self.is_safe(shard, &action),
            Action::Replace { new, .. } => learns(new) && self.is_safe(shard, &action),
            Action::Remove { node } => leader != node && self.is_safe(shard, &action),
            Action::Transfer { from, to } => {
                let fit = |replica: &&Replica| replica.node == to && replica.caught_up;
                leader == from
                    && self.is_alive(to)
                    && shard.replicas.iter().filter(|r| r.votes()).any(|r| fit(&r))
            }
            Action::Split { at } => at > shard.first && at <= shard.last && self.has_quorum(shard),
            Action::Merge { with } => self.state.shard(with).is_some_and(|other| {
                let (mut here, mut there): (Vec<_>, Vec<_>) =
                    (shard.voters().collect(), other.voters().collect());
                here.sort_unstable();
                there.sort_unstable();
                here == there && shard.leader == other.leader && other.under_way.is_none()
            }),
        }
    }

    /// Asserts what is promised of a single move.
    fn check(&self, planned: &Move) {
        let at = self.position(planned.shard).expect("a plan is about shards that there are");
        let shard = &self.state.shards[at];
        let text = planned.to_string();
        assert_eq!(planned.epoch, shard.epoch, "{text}");
        assert_eq!(shard.under_way, None, "{text}");
        assert!(self.can(at, planned.action), "cannot be done: {text}\n{shard:?}");
        assert!(planned.reason.contains(|c: char| c.is_ascii_digit()), "no figures: {text}");
        if let Action::Replace { old, .. } = planned.action {
            let only = shard.voters().count() == 1;
            assert!(only || shard.leader != Some(old), "the leader is replaced: {text}");
        }
        if let Action::Transfer { from, to } = planned.action
            && self.node(to).draining
        {
            let mut others = shard.replicas.iter().filter(|r| r.votes() && r.node != from);
            let better = others.find(|replica| {
                let node = replica.node;
                let is_fit = replica.caught_up && self.is_alive(node);
                is_fit && !self.node(node).draining && self.is_allowed(shard, node)
            });
            assert!(better.is_none(), "a better leader than one that drains: {text}");
        }
        if let Action::Merge { with } = planned.action {
            let other = self.state.shard(with).expect("checked by `can`");
            assert_eq!((shard.space, shard.last + 1), (other.space, other.first), "{text}");
            let shards = self.state.shards.iter().filter(|s| s.space == shard.space).count();
            assert!(shards > self.space_of(shard.space).shards_min as usize, "{text}");
        }
    }

    /// Whether a change of voters leaves a majority that is alive and has all entries, no fewer
    /// healthy replicas than before or than asked for, and can be agreed on.
    fn is_safe(&self, shard: &Shard, action: &Action) -> bool {
        let sound = |node: NodeId| {
            let mut replicas = shard.replicas.iter().filter(|r| r.node == node && r.caught_up);
            replicas.next().is_some() && self.is_alive(node)
        };
        let before: Vec<NodeId> = shard.voters().collect();
        let mut after = before.clone();
        match *action {
            Action::Promote { node } => after.push(node),
            Action::Replace { old, new } => {
                after.retain(|node| *node != old);
                after.push(new);
            }
            Action::Remove { node } => after.retain(|voter| *voter != node),
            _ => {}
        }
        let healthy = |voters: &[NodeId]| voters.iter().filter(|node| sound(**node)).count();
        let wanted = usize::from(self.space_of(shard.space).replicas);
        let is_only_a_learner = before == after;
        self.has_quorum(shard)
            && (is_only_a_learner
                || (healthy(&after) > after.len() / 2
                    && healthy(&after) >= wanted.min(healthy(&before))))
    }

    /// Asserts the bounds on what is in flight, and that nodes have room for all of it.
    fn check_bounds(&self, plan: &Plan) {
        let limits = &self.limits;
        let mut after = self.clone();
        let mut touched = Vec::new();
        for planned in &plan.moves {
            let shard = after.at_mut(planned.shard);
            assert_eq!(shard.under_way, None, "two moves for one shard: {planned}");
            shard.under_way = Some(planned.action);
            match planned.action {
                Action::AddReplica { node, .. } => {
                    touched.push(node);
                    touched.extend(shard.leader);
                }
                Action::Transfer { from, to } => touched.extend([from, to]),
                _ => {}
            }
        }
        let total: u64 = self.state.shards.iter().map(|shard| shard.bytes).sum();
        let moving =
            |world: &Self| world.state.shards.iter().filter(|s| world.is_moving(s)).count();
        let (before, now) = (moving(self), moving(&after));
        let share = (limits.moving_shards_share * self.state.shards.len() as f64) as usize;
        let max = share.max(crate::MOVING_SHARDS_MIN).max(before);
        assert!(now <= max, "{now} shards moving, {before} before: {plan:#?}");
        assert_eq!(now, plan.moving, "the plan says how many move");
        let (bytes, copies, transfers) = after.in_flight();
        let (bytes_before, copies_before, _) = self.in_flight();
        let began = copies.iter().sum::<u32>() > copies_before.iter().sum::<u32>();
        let share = (limits.moving_bytes_share * total as f64) as u64;
        let largest = self.state.shards.iter().map(|shard| shard.bytes).max().unwrap_or(0);
        let max = share.max(bytes_before).max(largest);
        assert!(!began || bytes <= max, "{bytes} bytes moving, {bytes_before} before, of {total}");
        for node in touched {
            let at = self.node_at(node).expect("known");
            let is_more = copies[at] > copies_before[at];
            assert!(!is_more || copies[at] <= limits.copies_per_node_max, "copies of {node}");
            assert!(transfers[at] <= limits.transfers_per_node_max, "hand-overs of {node}");
            let incoming: u64 = after.incoming(node);
            let here = &self.state.nodes[at];
            assert!(incoming <= here.available_bytes || !is_more, "no room on {node}");
        }
    }

    /// Bytes that are being copied, and by node its copies and hand-overs of leadership.
    fn in_flight(&self) -> (u64, Vec<u32>, Vec<u32>) {
        let (mut bytes, nodes) = (0, self.state.nodes.len());
        let (mut copies, mut transfers) = (vec![0; nodes], vec![0; nodes]);
        for shard in &self.state.shards {
            let mut to: Vec<NodeId> = Vec::new();
            to.extend(shard.replicas.iter().filter(|r| !r.votes() && !r.caught_up).map(|r| r.node));
            match shard.under_way {
                Some(Action::AddReplica { node, .. }) => to.push(node),
                Some(Action::Transfer { from, to }) => {
                    for at in [from, to].into_iter().filter_map(|node| self.node_at(node)) {
                        transfers[at] += 1;
                    }
                }
                _ => {}
            }
            let is_led = shard.leader.is_some_and(|leader| self.is_alive(leader));
            let is_led = is_led && self.has_quorum(shard);
            for node in to.into_iter().filter(|_| is_led) {
                bytes += shard.bytes;
                let ends = shard.leader.into_iter().chain([node]);
                for at in ends.filter_map(|node| self.node_at(node)) {
                    copies[at] += 1;
                }
            }
        }
        (bytes, copies, transfers)
    }

    /// Bytes that copies will bring which have not begun to arrive.
    fn incoming(&self, node: NodeId) -> u64 {
        let comes = |shard: &&Shard| match shard.under_way {
            Some(Action::AddReplica { node: to, .. }) => to == node,
            _ => false,
        };
        self.state.shards.iter().filter(comes).map(|shard| shard.bytes).sum()
    }

    // --- looking -----------------------------------------------------------------------------------

    /// Whether a shard is being changed.
    pub fn is_moving(&self, shard: &Shard) -> bool {
        let wanted = usize::from(self.space_of(shard.space).replicas);
        let voters = shard.voters().count();
        let is_even = voters.is_multiple_of(2);
        if shard.under_way.is_some() {
            return true;
        }
        if shard.leader.is_none_or(|leader| !self.is_alive(leader)) || !self.has_quorum(shard) {
            return false;
        }
        // Such a learner waits for a second one.
        let waits = |replica: &&Replica| {
            let is_meant = replica.role != Role::Learner { instead_of: None };
            replica.caught_up && !is_meant && voters < wanted && !is_even
        };
        let learners = shard.replicas.iter().filter(|replica| !replica.votes());
        let is_between = voters > wanted && is_even && wanted % 2 == 1;
        let (all, waiting) = (learners.clone().count(), learners.filter(waits).count());
        waiting < all || is_between
    }

    fn has_quorum(&self, shard: &Shard) -> bool {
        let alive = shard.voters().filter(|node| self.is_alive(*node)).count();
        alive > shard.voters().count() / 2
    }

    fn is_alive(&self, node: NodeId) -> bool {
        self.state.node(node).is_some_and(|node| node.health == Health::Alive)
    }

    /// Whether a shard may be on a node.
    pub fn is_allowed(&self, shard: &Shard, node: NodeId) -> bool {
        let space = self.space_of(shard.space);
        let region = |node: &Node| space.regions.is_empty() || space.regions.contains(&node.region);
        self.state.node(node).is_some_and(region)
    }

    fn space_of(&self, space: SpaceId) -> &Space {
        self.state.space(space).expect("a space of this world")
    }

    fn node(&self, node: NodeId) -> &Node {
        self.state.node(node).expect("a node of this world")
    }

    /// The node called `id`, to change it.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        let at = self.node_at(id).expect("a node of this world");
        &mut self.state.nodes[at]
    }

    /// The shard called `id`, to change it.
    pub fn at_mut(&mut self, id: ShardId) -> &mut Shard {
        let at = self.position(id).expect("a shard of this world");
        &mut self.state.shards[at]
    }

    fn node_at(&self, id: NodeId) -> Option<usize> {
        self.state.nodes.binary_search_by_key(&id, |node| node.id).ok()
    }

    fn position(&self, id: ShardId) -> Option<usize> {
        self.state.shards.binary_search_by_key(&id, |shard| shard.id).ok()
    }

    fn charge(&mut self, node: NodeId, bytes: i64) {
        if let Some(at) = self.node_at(node) {
            let node = &mut self.state.nodes[at];
            node.used_bytes = node.used_bytes.saturating_add_signed(bytes);
            node.available_bytes = node.available_bytes.saturating_add_signed(-bytes);
        }
    }
}

fn holds(shard: &Shard, node: NodeId) -> bool {
    shard.replicas.iter().any(|replica| replica.node == node)
}
