import { readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { atLeast, atMost, barText, judge, type Row } from '../../bench/bars.js';
import { chart } from '../../bench/chart.js';
import { CONTESTS } from '../../bench/contests.js';
import { type CpuTimes, foreignShare, isDisturbed } from '../../bench/disturbance.js';
import { pageOf } from '../../bench/docs-page.js';
import { MEASUREMENTS, parsePlan } from '../../bench/plan.js';
import { busySeconds } from '../../bench/process-figures.js';
import { isGood, mergeResults, type Result, type Results } from '../../bench/results.js';
import { holdRounds } from '../../bench/rounds.js';
import { median, percentile, spreadOf } from '../../bench/statistics.js';

const NAMES = ['one', 'two'];

function row(contestant: string, value: number): Row {
  return { contestant, figures: { rate: spreadOf([value]) }, disturbedRuns: 0 };
}

describe('statistics', () => {
  test.each([
    [[3], 3],
    [[5, 1, 3], 3],
    [[4, 1, 3, 2], 2.5],
    [[10, 9, 100], 10],
  ])('the median of %j is %d', (values, expected) => expect(median(values)).toBe(expected));

  test('a percentile is one of the values, and a spread has the least and the greatest', () => {
    const values = Array.from({ length: 100 }, (_, at) => 100 - at);
    expect([percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1)]).toEqual([50, 99, 100]);
    expect(spreadOf([2, 9, 1])).toEqual({ median: 2, min: 1, max: 9 });
  });
});

describe('bars', () => {
  const rows = [row('ours', 12), row('theirs', 10)];

  test.each([
    [atLeast('ours', 'rate', 1.2, 'theirs'), 'held', 1.2],
    [atLeast('ours', 'rate', 1.21, 'theirs'), 'missed', 1.2],
    [atMost('ours', 'rate', 1.2, 'theirs'), 'held', 1.2],
    [atMost('ours', 'rate', 1.19, 'theirs'), 'missed', 1.2],
    [atMost('ours', 'rate', 12), 'held', 12],
    [atMost('ours', 'rate', 11), 'missed', 12],
  ])('%j is %s', (bar, verdict, reached) => expect(judge(bar, rows)).toEqual({ bar, verdict, reached }));

  test('a bar is not judged where a contestant, a peer or a figure is not there', () => {
    for (const bar of [atMost('nobody', 'rate', 1), atMost('ours', 'rate', 1, 'nobody'), atMost('ours', 'cpu', 1)])
      expect(judge(bar, rows)).toEqual({ bar, verdict: 'not judged' });
  });

  test('its text names the figure, the limit and the peer', () => {
    const figures = [{ key: 'rate', label: 'MiB/s', digits: 0 }];
    expect(barText(atLeast('ours', 'rate', 0.9, 'nginx'), figures)).toBe('ours: MiB/s at least 0.90 × nginx');
    expect(barText(atMost('ours', 'rate', 48), figures)).toBe('ours: MiB/s at most 48');
  });

  test('every bar names a figure of its contest', () => {
    const wrong = CONTESTS.flatMap(({ bars, figures }) =>
      bars.filter(({ figure }) => !figures.some(({ key }) => key === figure)),
    );
    expect(wrong).toEqual([]);
  });

  test('a run is good only if no bar is missed and nothing failed', () => {
    const result = (changes: Partial<Result>): Result => ({ ...RESULT, ...changes });
    const of = (verdict: 'held' | 'missed' | 'not judged') => [{ bar: atMost('ours', 'rate', 1), verdict }];
    expect(isGood([result({ judgements: of('held') }), result({ judgements: of('not judged') })])).toBe(true);
    expect(isGood([result({ judgements: of('held') }), result({ judgements: of('missed') })])).toBe(false);
    expect(isGood([result({ judgements: [], failure: 'it did not start' })])).toBe(false);
  });
});

describe('disturbance', () => {
  const before: CpuTimes = { atSeconds: 100, machine: 1000, contest: 10, kernel: 5 };

  test.each([
    ['nobody else', { machine: 1003, contest: 12, kernel: 6 }, 0, false],
    ['others a little', { machine: 1003.1, contest: 12, kernel: 6 }, 0.025, false],
    ['others a lot', { machine: 1003.4, contest: 12, kernel: 6 }, 0.1, true],
    ['less than was counted for the contest', { machine: 1002, contest: 12, kernel: 6 }, 0, false],
    ['no /proc', { machine: Number.NaN, contest: 12, kernel: 6 }, 0, false],
  ])('%s', (_, after, share, disturbed) => {
    const found = foreignShare(before, { ...after, atSeconds: 102 }, 2);
    expect(found).toBeCloseTo(share, 6);
    expect(isDisturbed(found)).toBe(disturbed);
  });

  test('idle time, waiting for disks and interrupts are not work; stolen time is', () => {
    expect(busySeconds('cpu  100 20 30 99999 8888 777 666 50 0 0')).toBe(2);
  });
});

describe('rounds', () => {
  /** One second a run on any number of cores; `foreign` says of each reading how much others have used so far. */
  function clock(foreign: readonly number[]): () => CpuTimes {
    let reads = 0;
    return () => {
      const at = reads++;
      return { atSeconds: at, machine: foreign[at] ?? foreign.at(-1)!, contest: 0, kernel: 0 };
    };
  }

  function runner(name: string, order: string[]) {
    let count = 0;
    return {
      name,
      run: () => {
        order.push(name);
        return Promise.resolve({ rate: count++ });
      },
    };
  }

  test('contestants take turns, and the first round is not counted', async () => {
    const order: string[] = [];
    const rows = await holdRounds([runner('a', order), runner('b', order)], { rounds: 3 }, clock([0]));
    expect(order.join('')).toBe('abababab');
    expect(rows.map(({ contestant, disturbedRuns }) => [contestant, disturbedRuns])).toEqual([
      ['a', 0],
      ['b', 0],
    ]);
    expect(rows[0]!.figures).toEqual({ rate: { median: 2, min: 1, max: 3 } });
  });

  test('the machine is made ready before every run, also before a repetition', async () => {
    const order: string[] = [];
    const beforeRun = (): Promise<void> => Promise.resolve(void order.push('-'));
    await holdRounds([runner('a', order)], { rounds: 1, beforeRun }, clock([0, 0, 0, 1000, 1000]));
    expect(order.join('')).toBe('-a-a-a');
  });

  test('a disturbed run is repeated, and only the repetition counts', async () => {
    const order: string[] = [];
    // Two readings a run: the warm-up, then a disturbed run, then its repetition.
    const rows = await holdRounds([runner('a', order)], { rounds: 1 }, clock([0, 0, 0, 1000, 1000]));
    expect(order).toHaveLength(3);
    expect(rows).toEqual([{ contestant: 'a', figures: { rate: { median: 2, min: 2, max: 2 } }, disturbedRuns: 0 }]);
  });

  test('where every run starts a process of its own, every round counts', async () => {
    const rows = await holdRounds([runner('a', [])], { rounds: 2, isFresh: true }, clock([0]));
    expect(rows[0]!.figures).toEqual({ rate: { median: 0.5, min: 0, max: 1 } });
  });

  test('a disturbed warm-up is not repeated', async () => {
    const order: string[] = [];
    await holdRounds([runner('a', order)], { rounds: 1 }, clock([0, 1000, 1000]));
    expect(order).toHaveLength(2);
  });

  test('repetition ends after as many runs as there are rounds, and the table says what stayed disturbed', async () => {
    const order: string[] = [];
    const rising = Array.from({ length: 100 }, (_, at) => at * 1000);
    const rows = await holdRounds([runner('a', order), runner('b', order)], { rounds: 3 }, clock(rising));
    expect(order).toHaveLength(2 + 6 + 3);
    expect(rows.map(({ disturbedRuns }) => disturbedRuns)).toEqual([3, 3]);
  });
});

describe('the command line', () => {
  test('without names all contests are held and nothing else', () => {
    expect(parsePlan([], NAMES)).toMatchObject({ contests: NAMES, measurements: [], isQuick: false, rounds: 5 });
    expect(parsePlan(['--quick'], NAMES)).toMatchObject({ contests: NAMES, isQuick: true, rounds: 1 });
  });

  test('names choose contests and measurements, in their own order', () => {
    expect(parsePlan(['rolling', 'two', 'memory', 'one'], NAMES)).toMatchObject({
      contests: ['one', 'two'],
      measurements: ['rolling', 'memory'],
    });
    expect(parsePlan(['memory'], NAMES)).toMatchObject({ contests: [], measurements: ['memory'] });
  });

  test('sizes, counts and flags', () => {
    const args = ['--rounds', '7', '--memory-size', '2GiB', '--proxy-flag=--a', '--proxy-flag=--b'];
    expect(parsePlan(args, NAMES)).toMatchObject({ rounds: 7, memorySize: 2 ** 31, proxyFlags: ['--a', '--b'] });
    expect(parsePlan(['--docs'], NAMES)).toMatchObject({ isForDocs: true });
    expect(parsePlan(['--help'], NAMES)).toBeUndefined();
  });

  test.each([
    [['three'], 'no bench is called "three"'],
    [['--rounds', '0'], '"0" is no number of repetitions'],
    [['--memory-size', '1TB'], '"1TB" is no size'],
    [['--fast'], '--fast'],
  ])('%j is refused', (args, words) => expect(() => parsePlan(args, NAMES)).toThrow(words));
});

const RESULT: Result = {
  name: 'one',
  title: 'A & B',
  method: 'This way.',
  figures: [{ key: 'rate', label: 'MiB/s', digits: 0, isMoreBetter: true }],
  rows: [row('ours', 12), { ...row('theirs', 10), disturbedRuns: 2 }],
  missing: [{ contestant: 'Caddy', reason: 'not here: no apt-get' }],
  judgements: [{ bar: atLeast('ours', 'rate', 1.5, 'theirs'), reached: 1.2, verdict: 'missed' }],
  seconds: 3,
};

describe('the page of the results', () => {
  const results: Results = {
    at: '2026-11-30T12:00:00.000Z',
    isQuick: false,
    rounds: 5,
    machine: { node: 'v20', commit: 'abc', kernel: '6', cpu: 'CPU', cores: 2, memoryBytes: 2 ** 33, load: 0.1 },
    peers: { nginx: '1.22' },
    contests: [RESULT],
  };

  test('shows machine, versions, figures, bars and what is missing', () => {
    const page = pageOf(results);
    for (const words of ['2 × CPU', 'nginx 1.22', '## one', '| ours | 12 (12–12) | 0 |', '| theirs | 10 (10–10) | 2 |'])
      expect(page).toContain(words);
    expect(page).toContain('| one | ours: MiB/s at least 1.50 × theirs | 1.20 × | missed |');
    expect(page).toContain('- Caddy: not here: no apt-get');
    expect(page).not.toContain('provisional');
    expect(pageOf({ ...results, isQuick: true })).toContain('provisional');
  });

  test.each<[string, Partial<Results>, string[]]>([
    ['the same way, at another load', { machine: { ...results.machine, load: 3 } }, ['one', 'two']],
    ['another commit', { machine: { ...results.machine, commit: 'def' } }, ['two']],
    ['another machine', { machine: { ...results.machine, cpu: 'other' } }, ['two']],
    ['other rounds', { rounds: 3 }, ['two']],
    ['a quick run', { isQuick: true }, ['two']],
  ])('a contest of an earlier run stays if it was held in the same way: %s', (_, newer, kept) => {
    const two = { ...RESULT, name: 'two' };
    const merged = mergeResults(results, { ...results, ...newer, contests: [two] });
    expect(merged.contests.map(({ name }) => name)).toEqual(kept);
    const again = mergeResults(merged, { ...results, ...newer, contests: [{ ...two, seconds: 99 }] });
    expect(again.contests.at(-1)!.seconds).toBe(99);
    expect(again.contests).toHaveLength(kept.length);
  });

  test('the chart draws the first figure of every contestant', () => {
    const svg = chart([RESULT]);
    expect(svg).toContain('A &amp; B: MiB/s, more is better');
    const widths = [...svg.matchAll(/width="([\d.]+)" height="12"/g)].map(([, width]) => Number(width));
    // The longest takes all the place there is.
    expect(widths).toEqual([450, 375]);
  });

  test('docs/performance.md has every contest that there is, no other, and their bars as they are', () => {
    const page = readFileSync('docs/performance.md', 'utf8');
    const headings = [...page.matchAll(/^## (.*)$/gm)].map(([, heading]) => heading);
    expect(headings).toEqual(['Bars', ...CONTESTS.map(({ name }) => name)]);
    for (const { bars, figures, title, method } of CONTESTS) {
      expect(page.replaceAll(/\s+/g, ' ')).toContain(`**${title}.** ${method}`);
      for (const bar of bars) expect(page).toContain(` ${barText(bar, figures)} `);
    }
  });

  test('no contest has the name of a measurement', () => {
    const names = [...CONTESTS.map(({ name }) => name), ...MEASUREMENTS];
    expect(new Set(names).size).toBe(names.length);
  });
});
