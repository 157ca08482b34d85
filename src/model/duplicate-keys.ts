/** Finding names that a JSON text gives twice: JSON.parse keeps the last of them and says nothing. */

/**
 * The first key that an object of the text has twice, or undefined. The text has to be valid JSON (parse it first), so
 * that quotes and brackets are all there is to follow.
 */
export function findDuplicateKey(text: string): string | undefined {
  // One entry per open bracket: the keys met so far in an object, null in a list.
  const open: (Set<string> | null)[] = [];
  let isKeyNext = false;
  for (let index = 0; index < text.length; index++) {
    switch (text[index]) {
      case "{":
        open.push(new Set());
        isKeyNext = true;
        break;
      case "[":
        open.push(null);
        isKeyNext = false;
        break;
      case "}":
      case "]":
        open.pop();
        isKeyNext = false;
        break;
      case ",":
        isKeyNext = open.at(-1) !== null;
        break;
      case '"': {
        const start = index++;
        while (text[index] !== '"') index += text[index] === "\\" ? 2 : 1;
        const keys = open.at(-1);
        if (isKeyNext && keys) {
          // Escapes are undone: "a" and "\u0061" are one name.
          const raw = text.slice(start + 1, index);
          const key = raw.includes("\\") ? (JSON.parse(`"${raw}"`) as string) : raw;
          if (keys.has(key)) return key;
          keys.add(key);
        }
        isKeyNext = false;
        break;
      }
    }
  }
  return undefined;
}
