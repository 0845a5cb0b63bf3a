// A manifest out of what was chosen, as YAML that a person would write.
import { visible } from "./fragments.js";

// Words that YAML takes for something else than text.
const SPECIAL = /^(?:~|null|true|false|yes|no|on|off|y|n)$/i;
const PLAIN = /^[A-Za-z_/][A-Za-z0-9_./-]*$/;

export function scalar(text) {
  return PLAIN.test(text) && !SPECIAL.test(text) ? text : quoted(text);
}

// JSON is YAML; what JSON leaves as it is and nobody would see is written by its code, which both know.
function quoted(text) {
  return visible(JSON.stringify(text)).replace(/[\ufffe\uffff]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16)}`);
}

function flow(names) {
  return `[${names.map(scalar).join(", ")}]`;
}

// `chosen`: {name, playbook, inventories, hosts, tags, strategy, limit, stop}; tags null: by hosts.
export function manifestOf(chosen) {
  const lines = ["apiVersion: reconciler/v1", "kind: BatchJob", "metadata:", `  name: ${scalar(chosen.name)}`, "spec:", `  playbook: ${scalar(chosen.playbook)}`];
  if (chosen.inventories.length === 1) lines.push(`  inventory: ${scalar(chosen.inventories[0])}`);
  else if (chosen.inventories.length > 1) lines.push(`  inventory: ${flow(chosen.inventories)}`);
  lines.push("  selector:");
  if (chosen.tags === null) {
    lines.push("    hosts:", ...chosen.hosts.map((host) => `      - ${scalar(host)}`));
  } else {
    lines.push(`    ${chosen.tags.length === 1 ? "tags" : "anyTags"}: ${flow(chosen.tags)}`);
  }
  lines.push(`  strategy: ${chosen.strategy}`);
  if (chosen.strategy === "parallel") lines.push(`  limit: ${chosen.limit}`);
  lines.push(`  stopOnFailure: ${chosen.stop}`);
  return `${lines.join("\n")}\n`;
}
