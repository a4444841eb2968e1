-- Adds entries of one audit chain to the stream, each number once and in order, whatever is sent again. Nothing is ever trimmed.
--
-- KEYS[1] audit: the stream  KEYS[2] audit_heads: "<number> <mac>" of the last entry of each chain
-- ARGV[1] chain  ARGV[2...] number, previous MAC, MAC, entry; in order; none: only tell the head
--
-- Returns {number, mac}: the last entry of the chain that is in the stream; {"0", ""} where there is none. What does not follow
-- on it is left out, so a sender sees by the answer where to go on, or that its chain is not the one that was sent.

local heads = redis.call('TYPE', KEYS[2]).ok
local stream = redis.call('TYPE', KEYS[1]).ok
if (heads ~= 'none' and heads ~= 'hash') or (stream ~= 'none' and stream ~= 'stream') then
  return redis.error_reply('ERR ' .. KEYS[1] .. ' or ' .. KEYS[2] .. ' is of another kind than the audit trail')
end

local head = redis.call('HGET', KEYS[2], ARGV[1]) or '0 '
local number, mac = string.match(head, '^(%d+) (%x*)$')
if not number then return redis.error_reply('ERR the head of audit chain ' .. ARGV[1] .. ' cannot be read') end
for i = 2, #ARGV, 4 do
  if tonumber(ARGV[i]) == tonumber(number) + 1 and ARGV[i + 1] == mac then
    number, mac = ARGV[i], ARGV[i + 2]
    redis.call('XADD', KEYS[1], '*', 'chain', ARGV[1], 'number', number, 'entry', ARGV[i + 3])
    redis.call('HSET', KEYS[2], ARGV[1], number .. ' ' .. mac)
  end
end
return {number, mac}
