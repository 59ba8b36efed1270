/*-------------------------------------------------------------------------
 *
 * model.c
 *		What a window should answer, in the slow and obvious way.
 *
 *-------------------------------------------------------------------------
 */
#include "model.h"

#include <stdlib.h>

static int64_t
plus(int64_t sum, int64_t amount)
{
	return amount > INT64_MAX - sum ? INT64_MAX : sum + amount;
}

void
model_clear(Model *model)
{
	free(model->calls);
	*model = (Model) {0};
}

void
model_add(Model *model, int64_t time, int64_t amount)
{
	if (amount == 0)
		return;
	if (model->count == model->allocated)
	{
		model->allocated = 2 * model->allocated + 64;
		model->calls = realloc(model->calls,
							   model->allocated * sizeof(ModelCall));
		if (model->calls == NULL)
			abort();
	}
	model->calls[model->count++] = (ModelCall) {time, amount};
}

int64_t
model_take_back(Model *model, int64_t amount)
{
	int64_t		left = amount;

	while (left > 0 && model->count > 0)
	{
		ModelCall  *newest = &model->calls[model->count - 1];

		if (newest->amount > left)
		{
			newest->amount -= left;
			return amount;
		}
		left -= newest->amount;
		model->count--;
	}
	return amount - left;
}

int64_t
model_used(const Model *model, int64_t now, int64_t period)
{
	int64_t		sum = 0;

	for (size_t i = 0; i < model->count; i++)
	{
		if (model->calls[i].time > now - period && model->calls[i].time <= now)
			sum = plus(sum, model->calls[i].amount);
	}
	return sum;
}

bool
model_oldest(const Model *model, int64_t now, int64_t period, int64_t *time)
{
	for (size_t i = 0; i < model->count; i++)
	{
		if (model->calls[i].time > now - period)
		{
			*time = model->calls[i].time;
			return true;
		}
	}
	return false;
}

/*
 * The newest calls may stay as long as they fit into the room together; the
 * first that does not has to leave, which it does a period after it came.
 */
int64_t
model_free_at(const Model *model, int64_t now, int64_t period, int64_t room)
{
	int64_t		sum = 0;

	for (size_t i = model->count; i-- > 0;)
	{
		const ModelCall *call = &model->calls[i];

		if (call->amount > room - sum)
			return call->time + period > now ? call->time + period : now;
		sum += call->amount;
	}
	return now;
}

int64_t
model_used_between(const Model *model, int64_t start, int64_t end)
{
	int64_t		sum = 0;

	for (size_t i = 0; i < model->count; i++)
	{
		if (model->calls[i].time >= start && model->calls[i].time < end)
			sum = plus(sum, model->calls[i].amount);
	}
	return sum;
}

int64_t
model_free_between(const Model *model, int64_t now, int64_t start, int64_t end,
				   int64_t room)
{
	return model_used_between(model, start, end) <= room ? now : end;
}

size_t
model_times_after(const Model *model, int64_t after)
{
	size_t		times = 0;

	for (size_t i = 0; i < model->count; i++)
	{
		if (model->calls[i].time > after &&
			(i == 0 || model->calls[i].time != model->calls[i - 1].time))
			times++;
	}
	return times;
}
