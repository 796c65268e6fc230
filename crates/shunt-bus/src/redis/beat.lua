-- The client is still there. It looks after those that are not: whoever comes first tells the others. Returns whether
-- its own will is still there, and how many events its full stream did not take; or `taken`.
local client, owner, alive, keep, bound = unpack(ARGV)
local current = redis.call('GET', 'shunt:alive:' .. client)
if current and current ~= owner then
  return 'taken'
end
here(client, owner, alive)
if keep ~= '0' then
  redis.call('EXPIRE', 'shunt:filters:' .. client, keep)
  redis.call('EXPIRE', 'shunt:queue:' .. client, keep)
end
local mine, wills = 0, redis.call('HGETALL', 'shunt:wills')
for at = 1, #wills, 2 do
  if wills[at] == client then
    mine = 1
  elseif redis.call('EXISTS', 'shunt:alive:' .. wills[at]) == 0 then
    redis.call('HDEL', 'shunt:wills', wills[at])
    tell(wills[at], wills[at + 1], bound)
  end
end
local dropped = tonumber(redis.call('HGET', 'shunt:dropped', client) or '0')
if dropped > 0 then
  redis.call('HDEL', 'shunt:dropped', client)
end
return { mine, dropped }
