import { describe, expect, test } from '@jest/globals';
import { ProgressDisplay } from '../../src/cli/upload/progress.js';

const MIB = 1024 * 1024;

describe('the progress of an upload', () => {
  function shown(options: { isTTY: boolean; columns?: number; isQuiet?: boolean; name?: string }) {
    const written: string[] = [];
    const clock = { now: 1000 };
    const screen = { isTTY: options.isTTY, columns: options.columns, write: (text: string) => written.push(text) };
    const display = new ProgressDisplay(screen, options.name ?? 'a.bin', options.isQuiet ?? false, () => clock.now);
    return { written, clock, display };
  }

  test('is a bar on a terminal, with the rate and the time that is left', () => {
    const { written, clock, display } = shown({ isTTY: true });
    display.update({ loaded: 0, total: 10 * MIB });
    clock.now += 50;
    display.update({ loaded: MIB, total: 10 * MIB });
    clock.now += 950;
    display.update({ loaded: 5 * MIB, total: 10 * MIB });
    display.say('201 Created');
    expect(written).toEqual([
      '\ra.bin  [                        ] 0 %  0 B of 10.0 MiB\u001b[K',
      '\ra.bin  [============            ] 50 %  5.0 MiB of 10.0 MiB  5.0 MiB/s  1s left\u001b[K',
      '\r\u001b[K',
      'a.bin: 201 Created\n',
    ]);
  });

  test.each([50, 20])('fits into %d columns', (columns) => {
    const { written, clock, display } = shown({ isTTY: true, columns });
    display.update({ loaded: 0, total: MIB });
    clock.now += 1000;
    display.update({ loaded: MIB / 2, total: MIB });
    expect(written).toHaveLength(2);
    for (const line of written) expect(line.replace('\r', '').replace('\u001b[K', '').length).toBeLessThan(columns);
  });

  test('without a known length is the amount and the rate', () => {
    const { written, clock, display } = shown({ isTTY: true });
    display.update({ loaded: 0, total: undefined });
    clock.now += 2000;
    display.update({ loaded: 4 * MIB, total: undefined });
    expect(written.at(-1)).toBe('\ra.bin  4.0 MiB  2.0 MiB/s\u001b[K');
  });

  test('is a line every ten seconds without a terminal', () => {
    const { written, clock, display } = shown({ isTTY: false });
    for (let second = 0; second < 21; second++) {
      display.update({ loaded: second * MIB, total: 100 * MIB });
      clock.now += 1000;
    }
    display.update({ loaded: 100 * MIB, total: 100 * MIB });
    expect(written).toEqual([
      'a.bin: 10 %  10.0 MiB of 100 MiB  1.0 MiB/s  1m 30s left\n',
      'a.bin: 20 %  20.0 MiB of 100 MiB  1.0 MiB/s  1m 20s left\n',
      'a.bin: 100 %  100 MiB of 100 MiB  waiting for the answer\n',
    ]);
  });

  test('forgets the rate when bytes have to be sent again', () => {
    const { written, clock, display } = shown({ isTTY: true });
    display.update({ loaded: 8 * MIB, total: 10 * MIB });
    clock.now += 1000;
    display.update({ loaded: 2 * MIB, total: 10 * MIB });
    expect(written.at(-1)).toContain('20 %  2.0 MiB of 10.0 MiB\u001b[K');
  });

  test('is silent if nobody wants it', () => {
    const { written, display } = shown({ isTTY: true, isQuiet: true });
    display.update({ loaded: 1, total: 1 });
    display.say('done');
    display.clear();
    expect(written).toEqual([]);
  });
});
