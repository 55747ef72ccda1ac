import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';

/** Fetched by test/install-needs. */
const PROMTOOL = '.cache/promtool/promtool';
const RULES = 'deploy/prometheus/rufh-proxy.rules.yaml';

function promtool(...command: string[]): string {
  return execFileSync(PROMTOOL, command, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

describe('the alert rules of Prometheus', () => {
  test('promtool is there', () => expect(existsSync(PROMTOOL)).toBe(true));

  test('are valid', () => {
    expect(promtool('check', 'rules', RULES)).toContain('SUCCESS: 14 rules found');
  });

  test('fire when they should, with what to do, and are quiet otherwise', () => {
    expect(promtool('test', 'rules', RULES.replace('.yaml', '.test.yaml'))).toContain('SUCCESS');
  });
});
