import { afterEach, describe, expect, test } from '@jest/globals';
import type { Lease } from '../../src/store/leases.js';
import type { LeaseProcess, LeaseProcesses, ProcessOptions } from '../support/redis-store.js';
import { until, within } from '../support/temporary.js';
import { commitOf, told } from './lease-holder.js';
import { newId, newUpload } from './sample-upload.js';

/** Long enough never to pass in a test; a test that waits for it fails by its own time limit. */
const NEVER = 600_000;
/** A lease that the machine may stand still under for more than two seconds between its renewals, before it runs out. */
const OUTLASTS_STALLS_MS = 4000;
const PATIENT = { graceMs: NEVER, leaseMs: NEVER };

/** What leases keep to among several processes, whatever happens to messages and processes. */
export function describeSharedLeases(name: string, makeProcesses: () => LeaseProcesses): void {
  describe(`${name}: leases of several processes`, () => {
    let processes: LeaseProcesses | undefined;

    async function open(...kinds: ProcessOptions[]): Promise<{ id: string; members: LeaseProcess[] }> {
      processes = makeProcesses();
      const members: LeaseProcess[] = [];
      for (const kind of kinds) members.push(await processes.join(kind));
      const { id } = await members[0]!.store.create(newUpload());
      return { id, members };
    }

    afterEach(async () => {
      await processes?.dispose();
      processes = undefined;
    });

    test('tokens grow, whichever process takes', async () => {
      const { id, members } = await open(PATIENT, PATIENT);
      for (const upload of [id, newId()]) {
        const tokens: number[] = [];
        for (let turn = 0; turn < 6; turn++) {
          const lease = await members[turn % 2]!.leases.take(upload);
          tokens.push(lease.token);
          await lease.release();
        }
        expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
      }
    });

    test('a holder is asked by another process, which gets the lease when it gives back', async () => {
      const { id, members } = await open(PATIENT, PATIENT);
      const [one, two] = members as [LeaseProcess, LeaseProcess];
      const first = await one.leases.take(id);
      expect(await one.store.commit(id, commitOf(first, 5))).toMatchObject({ offset: 5 });
      const taking = two.leases.take(id);
      expect(await within(told(first), 'being asked')).toBe('taken-over');
      expect(await one.store.commit(id, commitOf(first, 6))).toMatchObject({ offset: 6 });
      await first.release();
      const second = await within(taking, 'the second lease');
      expect(second.token).toBeGreaterThan(first.token);
      expect(second.signal.aborted).toBe(false);
      expect(await one.store.commit(id, commitOf(first, 7))).toBe('stale');
      expect(await two.store.commit(id, commitOf(second, 1, 6))).toMatchObject({ offset: 7 });
      await second.release();
    });

    test('of those who wait in different processes the newest is not disturbed; the older ones are told', async () => {
      const { id, members } = await open(PATIENT, PATIENT, PATIENT, PATIENT);
      const holder = await members[0]!.leases.take(id);
      const takings: Promise<Lease>[] = [];
      for (const { leases } of members.slice(1)) {
        const before = await members[0]!.lastTicket(id);
        takings.push(leases.take(id));
        await until(async () => (await members[0]!.lastTicket(id)) > before, 'its ticket to be drawn');
      }
      await holder.release();
      const leases = await within(
        Promise.all(
          takings.map(async (taking, place) => {
            const lease = await taking;
            if (place < 2) expect(await within(told(lease), 'being told')).toBe('taken-over');
            if (place < 2) await lease.release();
            return lease;
          }),
        ),
        'all leases',
      );
      const tokens = leases.map(({ token }) => token);
      expect(tokens).toEqual([...tokens].sort((a, b) => a - b));
      expect(leases[2]!.signal.aborted).toBe(false);
      await leases[2]!.release();
    });

    test('one that waited and is let in after a newer one is told so from the start, and can change nothing', async () => {
      const { id, members } = await open(PATIENT, PATIENT, PATIENT);
      const [one, slow, newest] = members as [LeaseProcess, LeaseProcess, LeaseProcess];
      const holder = await one.leases.take(id);
      const waiting = slow.leases.take(id);
      await within(told(holder), 'being asked');
      slow.gate.hold('take-lease');
      await slow.gate.arrived('take-lease');
      const taking = newest.leases.take(id);
      await holder.release();
      const current = await within(taking, 'the newest lease');
      slow.gate.open();
      const late = await within(waiting, 'the late lease');
      expect(late.token).toBeLessThan(current.token);
      expect(late.signal.reason).toBe('taken-over');
      expect(await slow.store.commit(id, commitOf(late, 3))).toBe('stale');
      await late.release();
      expect(current.signal.aborted).toBe(false);
      expect(await newest.store.commit(id, commitOf(current, 4))).toMatchObject({ offset: 4 });
      await current.release();
    });

    test('with every message lost a holder hears of it by its renewal, and who waits looks by itself', async () => {
      const deaf = { graceMs: NEVER, leaseMs: OUTLASTS_STALLS_MS, isDeaf: true };
      const { id, members } = await open(deaf, deaf);
      const first = await members[0]!.leases.take(id);
      const taking = members[1]!.leases.take(id);
      expect(await within(told(first), 'being asked')).toBe('taken-over');
      await first.release();
      const second = await within(taking, 'the second lease');
      expect(second.signal.aborted).toBe(false);
      await second.release();
    });

    test('a holder that was asked and does not give back is passed over, told, and can change nothing', async () => {
      const deaf = { graceMs: 50, leaseMs: OUTLASTS_STALLS_MS, isDeaf: true };
      const { id, members } = await open(deaf, { graceMs: 50, leaseMs: NEVER });
      const stalled = await members[0]!.leases.take(id);
      const next = await within(members[1]!.leases.take(id), 'the takeover');
      expect(await members[0]!.store.commit(id, commitOf(stalled, 5))).toBe('stale');
      expect(await within(told(stalled), 'being told')).toBe('taken-over');
      await stalled.release();
      expect(next.signal.aborted).toBe(false);
      expect(await members[1]!.store.commit(id, commitOf(next, 7))).toMatchObject({ offset: 7 });
      await next.release();
    });

    test('the lease of a dead process is free after the grace time', async () => {
      const { id, members } = await open({ graceMs: 50, leaseMs: NEVER }, { graceMs: 50, leaseMs: NEVER });
      await members[0]!.leases.take(id);
      await members[0]!.die();
      const next = await within(members[1]!.leases.take(id), 'the takeover');
      expect(next.signal.aborted).toBe(false);
      await next.release();
    });

    test('the lease of a dead process is free when its time is over, however long the grace', async () => {
      const { id, members } = await open({ graceMs: NEVER, leaseMs: 300 }, PATIENT);
      await members[0]!.leases.take(id);
      await members[0]!.die();
      await (await within(members[1]!.leases.take(id), 'the takeover')).release();
    });

    test('a lease that is renewed lasts longer than its time', async () => {
      const { id, members } = await open({ graceMs: NEVER, leaseMs: OUTLASTS_STALLS_MS }, PATIENT);
      const held = await members[0]!.leases.take(id);
      const [{ store }, other] = members as [LeaseProcess, LeaseProcess];
      const taking = other.leases.take(id).then((lease) => lease.release());
      await within(told(held), 'being asked');
      const askedAt = Date.now();
      await until(() => Date.now() - askedAt > OUTLASTS_STALLS_MS + 500, 'more than its time');
      expect(await store.commit(id, commitOf(held, 5))).toMatchObject({ offset: 5 });
      await held.release();
      await within(taking, 'the next');
    });

    test('a holder that was paused for longer than its lease can change nothing, and is told when it goes on', async () => {
      const { id, members } = await open({ graceMs: NEVER, leaseMs: 300, isDeaf: true }, PATIENT);
      const [paused, other] = members as [LeaseProcess, LeaseProcess];
      const old = await paused.leases.take(id);
      paused.gate.hold('renew-lease');
      const next = await within(other.leases.take(id), 'the takeover');
      expect(await other.store.commit(id, commitOf(next, 7))).toMatchObject({ offset: 7 });
      paused.gate.open();
      expect(['lost', 'taken-over']).toContain(await within(told(old), 'being told'));
      expect(await paused.store.commit(id, commitOf(old, 5))).toBe('stale');
      await old.release();
      expect(await other.store.get(id)).toMatchObject({ offset: 7 });
      expect(next.signal.aborted).toBe(false);
      await next.release();
    });

    test('a takeover in the same process does not wait for what Redis is told', async () => {
      const { id, members } = await open({ ...PATIENT, isDeaf: true }, PATIENT);
      const [{ leases, gate }, other] = members as [LeaseProcess, LeaseProcess];
      const first = await leases.take(id);
      gate.hold('release-lease');
      const taking = leases.take(id);
      expect(await within(told(first), 'being asked')).toBe('taken-over');
      const releasing = first.release();
      const second = await within(taking, 'the second lease');
      gate.open();
      await releasing;
      // What was given back late was the old one: the new one is still held.
      const third = other.leases.take(id);
      await until(async () => (await other.lastTicket(id)) > second.token, 'the third ticket');
      await second.release();
      await (await within(third, 'the third lease')).release();
    });

    test('who drains asks back what it holds itself, and nothing of others', async () => {
      const { id, members } = await open(PATIENT, PATIENT);
      const [one, two] = members as [LeaseProcess, LeaseProcess];
      const other = (await one.store.create(newUpload())).id;
      const [mine, theirs] = [await one.leases.take(id), await two.leases.take(other)];
      one.leases.drain();
      expect(mine.signal.reason).toBe('draining');
      expect(theirs.signal.aborted).toBe(false);
      await Promise.all([mine.release(), theirs.release()]);
    });

    test('however many come at once from everywhere, each byte is counted once and nobody waits for ever', async () => {
      const { id, members } = await open({}, {}, {});
      let counted = 0;
      const one = async ({ leases, store }: LeaseProcess): Promise<void> => {
        const lease = await leases.take(id);
        const { offset } = (await store.get(id))!;
        const result = await store.commit(id, commitOf(lease, 1, offset));
        if (typeof result === 'object') counted += 1;
        await lease.release();
      };
      const all = Array.from({ length: 30 }, (_, turn) => one(members[turn % 3]!));
      await within(Promise.all(all), 'all turns', 30_000);
      expect(counted).toBeGreaterThan(0);
      expect(await members[0]!.store.get(id)).toMatchObject({ offset: counted });
    });
  });
}
