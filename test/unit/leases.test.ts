import { describe, expect, test } from '@jest/globals';
import type { AppendIntent, CreateIntent } from '../../src/model/messages.js';
import type { Limits } from '../../src/model/route.js';
import type { Upload } from '../../src/model/upload.js';
import { LeaseQueues, type LeaseRequest } from '../../src/store/leases.js';
import { allowance, refuseAppend, refuseCreation } from '../../src/uploads/validate.js';
import { within } from '../support/temporary.js';

describe('lease queues', () => {
  const NEVER = 600_000;

  /** Whether its turn has come, after everything that can happen by itself has happened. */
  async function hasCome(turn: LeaseRequest): Promise<boolean> {
    let come = false;
    void turn.ready.then(() => (come = true));
    await new Promise((resolve) => setImmediate(resolve));
    return come;
  }

  test('one that leaves the line before its turn lets nobody pass those before it', async () => {
    const lines = new LeaseQueues(NEVER);
    const [holder, leaves, next] = [lines.enqueue('a'), lines.enqueue('a'), lines.enqueue('a')];
    holder.markHeld();
    leaves.end();
    expect(await hasCome(next)).toBe(false);
    holder.end();
    await within(next.ready, 'the turn of the next');
  });

  test('the last of a line that leaves before its turn is no reason to let in those who come later', async () => {
    const lines = new LeaseQueues(NEVER);
    const holder = lines.enqueue('a');
    holder.markHeld();
    lines.enqueue('a').end();
    const later = lines.enqueue('a');
    expect(later.isFirst).toBe(false);
    expect(await hasCome(later)).toBe(false);
    holder.end();
    await within(later.ready, 'the turn of the later one');
  });

  test('who comes when all are gone is the first', async () => {
    const lines = new LeaseQueues(NEVER);
    const [one, two] = [lines.enqueue('a'), lines.enqueue('a')];
    two.end();
    one.end();
    await two.ready;
    await new Promise((resolve) => setImmediate(resolve));
    expect(lines.enqueue('a').isFirst).toBe(true);
  });

  test('one that was asked has its grace from when its turn began, not from when it was asked', async () => {
    const lines = new LeaseQueues(0);
    const [holder, next] = [lines.enqueue('a'), lines.enqueue('a')];
    expect(holder.signal.reason).toBe('taken-over');
    expect(await hasCome(next)).toBe(false);
    holder.markHeld();
    await within(next.ready, 'the turn of the next');
  });
});

describe('validation', () => {
  const noLimits: Limits = { minSize: 0, maxAgeSeconds: 60 };

  function creation(from: Partial<CreateIntent>): CreateIntent {
    return {
      kind: 'create',
      dialect: '9',
      complete: false,
      appendLimitsApply: true,
      contentDigests: [],
      reprDigests: [],
      ...from,
    };
  }

  function append(from: Partial<AppendIntent>): AppendIntent {
    return { kind: 'append', id: 'x', offset: 0, complete: false, contentDigests: [], reprDigests: [], ...from };
  }

  function uploadAt(offset: number, length?: number, limits: Limits = noLimits): Upload {
    return { offset, length, limits } as Upload;
  }

  describe('a creation is refused by its head', () => {
    const limits: Limits = { ...noLimits, maxSize: 100, maxAppendSize: 50, minAppendSize: 10 };
    test.each<[string, Partial<CreateIntent>, Limits, string | undefined]>([
      ['nothing known', {}, limits, undefined],
      ['empty', { contentLength: 0 }, limits, undefined],
      ['content within all limits', { contentLength: 50 }, limits, undefined],
      ['content over max-append-size', { contentLength: 51 }, limits, 'append-too-large'],
      ['the same where append limits do not apply', { contentLength: 51, appendLimitsApply: false }, limits, undefined],
      ['content under min-append-size', { contentLength: 9 }, limits, 'append-too-small'],
      ['a small content that is the last', { contentLength: 9, complete: true }, limits, undefined],
      ['declared length over max-size', { declaredLength: 101, contentLength: 0 }, limits, 'too-large'],
      ['declared length at max-size', { declaredLength: 100, contentLength: 0 }, limits, undefined],
      ['content over max-size', { contentLength: 101, complete: true }, { ...noLimits, maxSize: 100 }, 'too-large'],
      [
        'complete with two lengths',
        { complete: true, declaredLength: 5, contentLength: 4 },
        noLimits,
        'inconsistent-length',
      ],
      [
        'complete with the same length twice',
        { complete: true, declaredLength: 5, contentLength: 5 },
        noLimits,
        undefined,
      ],
      ['more content than declared', { declaredLength: 5, contentLength: 6 }, noLimits, 'inconsistent-length'],
      ['less content than declared', { declaredLength: 5, contentLength: 4 }, noLimits, undefined],
    ])('%s', (_, intent, within, expected) => {
      expect(refuseCreation(creation(intent), within)?.reason).toBe(expected);
    });
  });

  describe('an append is refused by its head', () => {
    const limits: Limits = { ...noLimits, maxSize: 100, maxAppendSize: 50, minAppendSize: 10 };
    test.each<[string, Partial<AppendIntent>, Upload, string | undefined, boolean]>([
      ['at the offset', { offset: 5, contentLength: 20 }, uploadAt(5, undefined, limits), undefined, false],
      [
        'too large comes before a wrong offset',
        { offset: 4, contentLength: 51 },
        uploadAt(5, undefined, limits),
        'append-too-large',
        false,
      ],
      ['wrong offset', { offset: 4 }, uploadAt(5), 'mismatching-offset', false],
      [
        'wrong offset comes before lengths',
        { offset: 4, declaredLength: 9 },
        uploadAt(5, 10),
        'mismatching-offset',
        false,
      ],
      ['another length', { offset: 5, declaredLength: 9 }, uploadAt(5, 10), 'inconsistent-length', false],
      ['a length below the offset', { offset: 5, declaredLength: 4 }, uploadAt(5), 'inconsistent-length', false],
      [
        'an end before the length',
        { offset: 5, complete: true, contentLength: 4 },
        uploadAt(5, 10),
        'inconsistent-length',
        false,
      ],
      [
        'an end beyond the length',
        { offset: 5, complete: true, contentLength: 6 },
        uploadAt(5, 10),
        'inconsistent-length',
        false,
      ],
      ['the end', { offset: 5, complete: true, contentLength: 5 }, uploadAt(5, 10), undefined, false],
      ['more than the length', { offset: 5, contentLength: 6 }, uploadAt(5, 10), 'exceeds-length', true],
      [
        'more than the length it declares',
        { offset: 5, contentLength: 6, declaredLength: 10 },
        uploadAt(5),
        'exceeds-length',
        true,
      ],
      ['beyond max-size', { offset: 60, contentLength: 50 }, uploadAt(60, undefined, limits), 'too-large', false],
      ['a small part', { offset: 5, contentLength: 9 }, uploadAt(5, undefined, limits), 'append-too-small', false],
      ['an empty part', { offset: 5, contentLength: 0 }, uploadAt(5, undefined, limits), 'append-too-small', false],
      [
        'a small last part',
        { offset: 5, contentLength: 1, complete: true },
        uploadAt(5, undefined, limits),
        undefined,
        false,
      ],
    ])('%s', (_, intent, upload, expected, invalidates) => {
      const verdict = refuseAppend(append(intent), upload);
      expect(verdict?.refusal.reason).toBe(expected);
      expect(verdict?.invalidates ?? false).toBe(invalidates);
      // The client goes on from the offset that the response carries; without an upload there is none.
      const carried = verdict && 'upload' in verdict.refusal ? verdict.refusal.upload : undefined;
      expect(carried).toBe(verdict && !invalidates ? upload : undefined);
    });
  });

  test('the tightest bound on an unannounced body wins', () => {
    const limits: Limits = { ...noLimits, maxSize: 100, maxAppendSize: 50 };
    expect(allowance(uploadAt(0), true)).toBeUndefined();
    expect(allowance(uploadAt(0, undefined, limits), true)).toEqual({ bytes: 50, beyond: 'append-too-large' });
    expect(allowance(uploadAt(0, undefined, limits), false)).toEqual({ bytes: 100, beyond: 'too-large' });
    expect(allowance(uploadAt(60, undefined, limits), true)).toEqual({ bytes: 40, beyond: 'too-large' });
    expect(allowance(uploadAt(60, 80, limits), true)).toEqual({ bytes: 20, beyond: 'exceeds-length' });
  });
});
